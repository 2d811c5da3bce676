"""Token files joined, and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.data.indexed import IndexedDataset, IndexedWriter
from mcc.data.merge import merge, prefixes_in
from mcc.data.verify import verify
from tests.data import megatron_writer

# Documents of sentences of tokens; tokens are written as letters.
DOCUMENTS = st.lists(st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), max_size=6)


def encode(text: str) -> list[int]:
    return [ord(letter) for letter in text]


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(DOCUMENTS, min_size=1, max_size=4), wide=st.booleans())
def test_the_bytes_are_those_of_all_at_once(tmp_path_factory: pytest.TempPathFactory, parts: list, wide: bool) -> None:
    folder = tmp_path_factory.mktemp("merge")
    for i, documents in enumerate(parts):
        megatron_writer.write(folder / f"p{i}", documents, encode, 7, wide)
    megatron_writer.write(folder / "all", [d for documents in parts for d in documents], encode, 7, wide)
    report = merge([folder / f"p{i}" for i in range(len(parts))], folder / "merged")
    assert megatron_writer.files(folder / "merged") == megatron_writer.files(folder / "all")
    assert report.documents == sum(map(len, parts)) and report.dtype == ("int32" if wide else "uint16")
    assert verify(folder / "merged").tokens == report.tokens


def test_older_and_disordered_files(tmp_path: Path) -> None:
    megatron_writer.write_old(tmp_path / "old", [[1, 2], [3]])
    megatron_writer.write_old(tmp_path / "gap", [[4, 5], [6]])
    raw = bytearray((tmp_path / "gap.idx").read_bytes())
    raw[56 + 24 + 8] = 3  # the second sequence starts a token later
    (tmp_path / "gap.idx").write_bytes(raw)
    (tmp_path / "gap.bin").write_bytes(np.array([4, 5, 99, 6], dtype="<u2").tobytes())
    with pytest.raises(MccError, match=r"gap\.idx: byte 88: sequence 1 starts at byte 6, but the one before ends at 4"):
        verify(tmp_path / "gap")
    merge([tmp_path / "old", tmp_path / "gap"], tmp_path / "new")
    data = IndexedDataset(tmp_path / "new")
    assert [tokens.tolist() for tokens in data] == [[1, 2], [3], [4, 5], [6]] and data.layout.kind == "mmap"


def test_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a", "c.d"):
        megatron_writer.write(tmp_path / name, [[name[0]]], encode, None, False)
    (tmp_path / "note.txt").write_text("")
    assert [path.name for path in prefixes_in(tmp_path)] == ["a", "b", "c.d"]
    (tmp_path / "b.idx").unlink()
    with pytest.raises(MccError, match=r"b\.idx is missing"):
        prefixes_in(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MccError, match=r"no \.bin/\.idx files"):
        prefixes_in(tmp_path / "empty")
    with pytest.raises(MccError, match="not a folder"):
        prefixes_in(tmp_path / "none")


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    megatron_writer.write(tmp_path / "a", [["a"]], encode, None, False)
    megatron_writer.write(tmp_path / "b", [["a"]], encode, None, True)
    with pytest.raises(MccError, match=r"b holds int32, .*a uint16"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    with pytest.raises(UsageError, match="both input and output"):
        merge([tmp_path / "a"], tmp_path / "a")
    with pytest.raises(UsageError, match="nothing to merge"):
        merge([], tmp_path / "c")
    (tmp_path / "b.bin").write_bytes(b"")
    with pytest.raises(MccError, match=r"b\.bin: truncated"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert not list(tmp_path.glob("c*")) and not list(tmp_path.glob(".c*"))


def test_verify_names_the_first_problem(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "d", np.int32) as writer:
        for tokens in ([5, 6], [7], [8, 100, 9]):
            writer.add(tokens)
    report = verify(tmp_path / "d", vocab_size=101)
    assert (report.largest_token, report.documents, report.tokens) == (100, 3, 6)
    with pytest.raises(MccError, match=r"d\.bin: byte 16: token 100 of sequence 2 is not in the vocabulary of 100"):
        verify(tmp_path / "d", vocab_size=100)
    raw = bytearray((tmp_path / "d.bin").read_bytes())
    raw[7] = 0x80
    (tmp_path / "d.bin").write_bytes(raw)
    with pytest.raises(MccError, match=r"d\.bin: byte 4: token -\d+ of sequence 0 is not in any vocabulary"):
        verify(tmp_path / "d")
    raw[7] = 0
    # Some forks write end tokens that they do not count.
    (tmp_path / "d.bin").write_bytes(raw + b"\0\0\0\0")
    with pytest.raises(MccError, match=r"d\.bin: 4 bytes from byte 24 on belong to no sequence"):
        verify(tmp_path / "d")
