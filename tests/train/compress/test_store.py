"""Rows of samples: what was written last is what is read, however reads, writes and their thread interleave."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcc.core.errors import MccError
from mcc.train.compress import disk_store, store
from mcc.train.compress.disk_store import DiskRows
from mcc.train.compress.store import RamRows, Rows

WIDTH = 48
rows = st.lists(st.integers(0, 7), min_size=1, max_size=4)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), rows),
        st.tuples(st.just("read"), rows),
        st.tuples(st.just("expect"), rows),
        st.tuples(st.sampled_from(["blocks", "snapshot"]), st.just([])),
    ),
    max_size=40,
)


def row(value: int) -> torch.Tensor:
    return torch.arange(value, value + WIDTH).to(torch.uint8)


@given(OPERATIONS, st.sampled_from([RamRows, DiskRows]), st.lists(st.integers(0, 3), max_size=20))
def test_a_read_gives_what_was_written_last(operations, kind, delays):
    """The thread is held up at random places, the limits are small, and blocks hold three rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_BLOCK_BYTES", 3 * WIDTH)
        patch.setattr(disk_store, "_WAITING_BYTES", 3 * WIDTH)
        patch.setattr(disk_store, "_COPY_BYTES", 100)
        held: Rows = kind(WIDTH)
        waits = iter(delays)
        for name in ("_get", "_put"):
            inner = getattr(disk_store, name)

            def late(*args, inner=inner):
                time.sleep(next(waits, 0) * 2e-4)
                return inner(*args)

            patch.setattr(disk_store, name, late)
        wanted: dict[int, torch.Tensor] = {}
        value, kept = 0, []
        for what, asked in operations:
            numbers = list(asked)
            if what == "write":
                there = len(wanted)
                for place, number in enumerate(numbers):  # new rows come in order
                    numbers[place] = min(number, there)
                    there = max(there, numbers[place] + 1)
                given_rows = torch.stack([row(value + i) for i in range(len(numbers))])
                held.write(numbers, given_rows)
                for number, written in zip(numbers, given_rows.clone(), strict=True):
                    wanted[number] = written
                given_rows.zero_()  # the caller's own again
                value += len(numbers)
            elif what == "expect":
                held.expect(numbers)
            elif what == "read":
                numbers = [number for number in numbers if number in wanted]
                if numbers:
                    assert torch.equal(held.read(numbers), torch.stack([wanted[number] for number in numbers]))
            elif wanted:
                blocks = list(getattr(held, what)())
                now = torch.stack([wanted[number] for number in range(len(wanted))])
                assert torch.equal(torch.cat(blocks), now)
                if what == "snapshot":
                    kept.append((blocks, now))
        for blocks, then in kept:
            assert torch.equal(torch.cat(blocks), then)
        if isinstance(held, DiskRows):
            held.close()


def test_the_file_has_no_name(tmp_path):
    held = DiskRows(WIDTH, tmp_path / "run")
    held.write([0], row(1)[None])
    held.flush()
    assert list((tmp_path / "run").iterdir()) == []
    held.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_is_told(tmp_path):
    held = DiskRows(WIDTH, tmp_path)
    held._file.close()
    held._file = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115  (closed as the store's own)
    with pytest.raises(MccError, match="No space left") as caught:
        held.write([0], row(1)[None])
        held.flush()
    assert str(tmp_path) in caught.value.what


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MccError, match="samples kept in"):
        DiskRows(WIDTH, tmp_path / "file" / "below")


def test_memory_stays_within_limits(tmp_path, monkeypatch):
    """However many rows go by, few wait."""
    monkeypatch.setattr(disk_store, "_WAITING_BYTES", 4 * WIDTH)
    held = DiskRows(WIDTH, tmp_path)
    for number in range(100):
        held.write([number], row(number)[None])
        held.expect(range(number))
        assert len(held._behind) <= 4 and len(held._ahead) <= 4
    assert os.fstat(held._file.fileno()).st_size <= 100 * WIDTH
    assert torch.equal(held.read(range(100)), torch.stack([row(number) for number in range(100)]))
    held.close()


def test_what_is_expected_is_read_before_it_is_asked_for(tmp_path, monkeypatch):
    """Once: reading it later fetches nothing."""
    fetched, get = [], disk_store._get
    monkeypatch.setattr(disk_store, "_get", lambda *args: fetched.append(args[2]) or get(*args))
    held = DiskRows(WIDTH, tmp_path)
    held.write(range(4), torch.stack([row(number) for number in range(4)]))
    held.flush()
    held.expect([2, 0])
    held._thread.submit(int).result()  # it has done what came before
    assert fetched == [2, 0]
    assert torch.equal(held.read([0, 2]), torch.stack([row(0), row(2)]))
    assert fetched == [2, 0]
    held.close()
