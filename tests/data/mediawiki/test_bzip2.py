"""Parts of bzip2 files, read from any byte on."""

from __future__ import annotations

import bz2
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError
from mcc.data.mediawiki import bzip2
from mcc.data.mediawiki.bzip2 import Bzip2Reader, check_ends


def read_in_parts(path: Path, step: int) -> bytes:
    found = []
    for begin in range(0, path.stat().st_size, step):
        with Bzip2Reader(path, begin) as reader:
            while (place := reader.place()) is not None and place < begin + step:
                found.append(reader.read())
    return b"".join(found)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=400), max_size=6), st.integers(1, 200), st.sampled_from([1, 9]))
def test_any_streams_in_any_parts(tmp_path_factory: pytest.TempPathFactory, texts: list, step: int, level: int) -> None:
    path = tmp_path_factory.mktemp("bz") / "a.bz2"
    path.write_bytes(b"".join(bz2.compress(text, level) for text in texts))
    assert read_in_parts(path, step) == b"".join(texts)


def test_long_streams_of_many_blocks(tmp_path: Path) -> None:
    """Blocks of 100 kB that begin at any bit; text that shrinks, and text that does not."""
    path = tmp_path / "a.bz2"
    text = noise(450_000) + b"abc " * 100_000 + noise(50_000, 2)
    path.write_bytes(bz2.compress(text, 1))
    for step in (1 << 30, 99_991, 20_011):
        assert read_in_parts(path, step) == text


@pytest.mark.parametrize("seed", range(4))
def test_marks_by_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """What looks like a mark within a block, right where a part begins or elsewhere, changes nothing."""
    path = tmp_path / "a.bz2"
    text = noise(300_000, seed)
    path.write_bytes(bz2.compress(text, 1))
    size = path.stat().st_size
    chosen = random.Random(seed)
    false = sorted((chosen.randrange(48, 8 * size - 80), chosen.choice([bzip2._BLOCK, bzip2._END])) for _ in range(9))
    real = Bzip2Reader._extend

    def extend(self: Bzip2Reader) -> bool:
        before = self._scanned
        more = real(self)
        self._marks += [mark for mark in false if 8 * before <= mark[0] < 8 * self._scanned and more]
        self._marks.sort()
        return more

    monkeypatch.setattr(Bzip2Reader, "_extend", extend)
    for step in (1 << 30, 50_000, 7_001):
        assert read_in_parts(path, step) == text


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.bz2"
    packed = bz2.compress(noise(250_000), 1)
    for content, message in (
        (packed[:120_000], "truncated: the compressed block at byte 100"),
        (packed[:-1], r"truncated: it ends at byte \d+ within a stream"),
        (packed[:50_000] + bytes([packed[50_000] ^ 1]) + packed[50_001:], "damaged: the compressed block at byte 4 "),
        (b"text", "not a bzip2 file"),
        (b"", "not a bzip2 file"),
    ):
        path.write_bytes(content)
        with pytest.raises(MccError, match=message):
            check_ends(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_never_gives_other_text(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A changed byte is told of, or does not matter; it never comes out as text that was not there."""
    text = b"some text, " * 50
    packed = bytearray(bz2.compress(text))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("bz") / "a.bz2"
    path.write_bytes(packed)
    try:
        found = check_ends(path)
    except MccError:
        return
    assert found in (text, b"")
