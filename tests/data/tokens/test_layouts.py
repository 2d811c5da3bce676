"""The layouts of token files: the older one is read as the mapped one; broken files end in one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError
from mcc.data.indexed import IndexedDataset, IndexedWriter, index_path
from mcc.data.tokens.index_file import numbers, write_index
from mcc.data.verify import verify
from tests.data.megatron_writer import write_old

DOCUMENTS = st.lists(st.lists(st.integers(0, 65499), max_size=20), max_size=12)


@settings(max_examples=40, deadline=None)
@given(documents=DOCUMENTS, code=st.sampled_from([4, 8]))
def test_cached_and_lazy_files(tmp_path_factory: pytest.TempPathFactory, documents: list, code: int) -> None:
    prefix = tmp_path_factory.mktemp("old") / "d"
    write_old(prefix, documents, code)
    data = IndexedDataset(prefix)
    data.verify()
    assert data.layout.kind == "cached" and data.dtype == {8: "u2", 4: "i4"}[code]
    assert [tokens.tolist() for tokens in data] == documents and data.documents == len(documents)
    assert data.doc_idx.tolist() == list(range(len(documents) + 1))
    assert verify(prefix).tokens == sum(map(len, documents))


def test_every_truncation_of_an_older_file_is_refused(tmp_path: Path) -> None:
    write_old(tmp_path / "d", [[1, 2, 3], [4]])
    whole = index_path(tmp_path / "d").read_bytes()
    for length in range(len(whole)):
        index_path(tmp_path / "d").write_bytes(whole[:length])
        with pytest.raises(MccError, match=r"d\.idx: (truncated|not a token index).*byte \d+"):
            IndexedDataset(tmp_path / "d")
    index_path(tmp_path / "d").write_bytes(whole + b"\0")
    with pytest.raises(MccError, match=f"1 bytes too many from byte {len(whole)} on"):
        IndexedDataset(tmp_path / "d")


@settings(max_examples=300, deadline=None)
@given(data=st.data(), old=st.booleans())
def test_changed_bytes_never_crash_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, old: bool
) -> None:
    prefix = tmp_path_factory.mktemp("idx") / "d"
    documents = [[1, 2, 3], [4], [5, 6]]
    if old:
        write_old(prefix, documents)
    else:
        with IndexedWriter(prefix, np.uint16) as writer:
            for tokens in documents:
                writer.add(tokens)
    whole = bytearray(index_path(prefix).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    index_path(prefix).write_bytes(whole)
    try:
        stored = IndexedDataset(prefix)
        stored.verify()
        for tokens in stored:
            tokens.tolist()
        verify(prefix)
    except MccError as error:
        assert "\n" not in error.what and "d." in error.what


@settings(max_examples=200, deadline=None)
@given(
    raw=st.binary(max_size=120),
    magic=st.sampled_from([b"", b"MMIDIDX\0\0", b"TNTIDX\0\0", b"MMIDIDX\0\0\1\0\0\0\0\0\0\0"]),
)
def test_foreign_bytes_never_crash_the_reader(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, magic: bytes
) -> None:
    prefix = tmp_path_factory.mktemp("idx") / "d"
    index_path(prefix).write_bytes(magic + raw)
    Path(f"{prefix}.bin").write_bytes(b"\0" * 64)
    try:
        IndexedDataset(prefix).verify()
    except MccError as error:
        assert "\n" not in error.what


@pytest.mark.parametrize(
    ("byte", "value", "message"),
    [
        (8, 2, "index version 2 at byte 8"),
        (16, 99, "unknown dtype code 99 at byte 16"),
        (24, 4, "tokens of 4 bytes at byte 24, but uint16 has 2"),
        (40, 1, "1 sizes at byte 40 for 2 sequences"),
        (56 + 8, 7, "byte 64: sequences have more than a size each"),
        (56 + 24 + 15, 0x80, "byte 88: sequence 1 starts at -"),
        (56 + 48 + 7, 0x80, "byte 104: sequence 0 has -"),
    ],
)
def test_what_cannot_be_is_named_with_its_byte(tmp_path: Path, byte: int, value: int, message: str) -> None:
    write_old(tmp_path / "d", [[1, 2, 3], [4]])
    whole = bytearray(index_path(tmp_path / "d").read_bytes())
    whole[byte] = value
    index_path(tmp_path / "d").write_bytes(whole)
    with pytest.raises(MccError) as caught:
        IndexedDataset(tmp_path / "d").verify()
    assert message in caught.value.what


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.lists(st.integers(1, 9), max_size=4), max_size=20), chunk=st.integers(1, 7))
def test_an_index_written_from_chunks(
    tmp_path_factory: pytest.TempPathFactory, counts: list[list[int]], chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("index")
    sizes = np.array([size for document in counts for size in document], dtype=np.int32)
    documents = np.array([len(document) for document in counts], dtype=np.int32)

    def chunks(values: np.ndarray) -> list[np.ndarray]:
        return [values[i : i + chunk] for i in range(0, len(values), chunk)]

    got = write_index(folder / "d.idx", "u2", lambda: chunks(sizes), lambda: chunks(documents))
    assert got == (len(sizes), len(counts), sizes.sum())
    (folder / "d.bin").write_bytes(bytes(2 * int(sizes.sum())))
    data = IndexedDataset(folder / "d")
    verify(folder / "d")
    found = [data.sizes[data.doc_idx[i] : data.doc_idx[i + 1]].tolist() for i in range(data.documents)]
    assert found == counts


def test_numbers_of_several_files(tmp_path: Path) -> None:
    for name, values in (("a", [1, 2]), ("b", []), ("c", [3])):
        (tmp_path / name).write_bytes(np.array(values, dtype="<i4").tobytes())
    assert [int(n) for chunk in numbers([tmp_path / name for name in "abc"]) for n in chunk] == [1, 2, 3]
