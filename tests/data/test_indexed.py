"""The token files: what goes in comes out, and files that are not whole are refused."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError
from mcc.data.indexed import IndexedDataset, IndexedWriter, bin_path, index_path, token_dtype

DOCUMENTS = st.lists(st.lists(st.integers(0, 65499), max_size=20), max_size=12)


def write(prefix: Path, documents: list[list[int]], dtype: object = np.uint16) -> IndexedDataset:
    with IndexedWriter(prefix, dtype) as writer:
        for tokens in documents:
            writer.add(tokens)
    return IndexedDataset(prefix)


@settings(max_examples=40, deadline=None)
@given(documents=DOCUMENTS, dtype=st.sampled_from([np.uint16, np.int32]))
def test_reads_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, documents: list, dtype: object) -> None:
    data = write(tmp_path_factory.mktemp("idx") / "d", documents, dtype)
    assert [list(tokens) for tokens in data] == documents
    assert data.dtype == np.dtype(dtype)
    assert data.sizes.tolist() == [len(tokens) for tokens in documents]
    assert data.doc_idx.tolist() == list(range(len(documents) + 1))
    assert data.tokens == sum(map(len, documents))
    data.verify()


@settings(max_examples=30, deadline=None)
@given(documents=st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=20), min_size=1), data=st.data())
def test_get_is_a_slice(tmp_path_factory: pytest.TempPathFactory, documents: list, data: st.DataObject) -> None:
    stored = write(tmp_path_factory.mktemp("idx") / "d", documents)
    i = data.draw(st.integers(0, len(documents) - 1))
    offset = data.draw(st.integers(0, len(documents[i])))
    length = data.draw(st.integers(0, len(documents[i]) - offset))
    assert stored.get(i, offset, length).tolist() == documents[i][offset : offset + length]
    assert stored.get(i, offset).tolist() == documents[i][offset:]


def test_bytes_are_megatrons(tmp_path: Path) -> None:
    write(tmp_path / "d", [[1, 2, 3], [65000]])
    expected = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 2, 3)
    expected += struct.pack("<ii", 3, 1) + struct.pack("<qq", 0, 6) + struct.pack("<qqq", 0, 1, 2)
    assert index_path(tmp_path / "d").read_bytes() == expected
    assert bin_path(tmp_path / "d").read_bytes() == struct.pack("<HHHH", 1, 2, 3, 65000)


def test_a_document_may_hold_several_sequences_or_none(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "d", np.int32) as writer:
        writer.add_many([1, 2, 3], [1, 2], end_documents=False)
        writer.end_document()
        writer.end_document()
    data = IndexedDataset(tmp_path / "d")
    assert data.doc_idx.tolist() == [0, 2, 2] and data.documents == 2 and len(data) == 2


def test_out_of_range(tmp_path: Path) -> None:
    data = write(tmp_path / "d", [[1, 2, 3]])
    for i, offset, length in ((1, 0, None), (-2, 0, None), (0, 0, 4), (0, 4, None), (0, -1, None)):
        with pytest.raises(IndexError):
            data.get(i, offset, length)


def test_views_are_read_only_and_pickling_maps_again(tmp_path: Path) -> None:
    data = write(tmp_path / "d", [[1, 2, 3]])
    with pytest.raises(ValueError, match="read-only"):
        data[0][0] = 9
    assert pickle.loads(pickle.dumps(data))[0].tolist() == [1, 2, 3]


def test_dtype_follows_the_vocabulary() -> None:
    assert token_dtype(65499) == np.uint16 and token_dtype(65500) == np.int32


@pytest.mark.parametrize("token", [-1, 65536])
def test_a_token_that_does_not_fit_leaves_nothing(tmp_path: Path, token: int) -> None:
    with pytest.raises(MccError, match="does not fit uint16"):
        write(tmp_path / "d", [[1], [token]])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_keeps_the_old_files(tmp_path: Path) -> None:
    write(tmp_path / "d", [[1, 2]])
    with pytest.raises(RuntimeError), IndexedWriter(tmp_path / "d", np.uint16) as writer:
        writer.add([3])
        raise RuntimeError
    assert IndexedDataset(tmp_path / "d")[0].tolist() == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.bin", "d.idx"]


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(MccError, match=r"no such token index.*none\.idx"):
        IndexedDataset(tmp_path / "none")
    write(tmp_path / "d", [[1]])
    bin_path(tmp_path / "d").unlink()
    with pytest.raises(MccError, match=r"no such token file.*d\.bin"):
        IndexedDataset(tmp_path / "d")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d", [[1, 2, 3], [4]])
    index, tokens = index_path(tmp_path / "d"), bin_path(tmp_path / "d")
    whole = index.read_bytes()
    for length in range(len(whole)):
        index.write_bytes(whole[:length])
        with pytest.raises(MccError, match=r"d\.idx"):
            IndexedDataset(tmp_path / "d")
    index.write_bytes(whole + b"\0")
    with pytest.raises(MccError, match="1 bytes too many"):
        IndexedDataset(tmp_path / "d")
    index.write_bytes(whole)
    tokens.write_bytes(tokens.read_bytes()[:-1])
    with pytest.raises(MccError, match=r"d\.bin: truncated"):
        IndexedDataset(tmp_path / "d")


@pytest.mark.parametrize("head", [b"", b"TNTIDX\0\0" + bytes(60), b"PK\x03\x04" + bytes(60), b"{" * 80])
def test_foreign_files_are_refused(tmp_path: Path, head: bytes) -> None:
    write(tmp_path / "d", [[1]])
    index_path(tmp_path / "d").write_bytes(head)
    with pytest.raises(MccError, match=r"d\.idx"):
        IndexedDataset(tmp_path / "d")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_never_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    prefix = tmp_path_factory.mktemp("idx") / "d"
    write(prefix, [[1, 2, 3], [4], [5, 6]])
    whole = bytearray(index_path(prefix).read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    index_path(prefix).write_bytes(whole)
    try:
        stored = IndexedDataset(prefix)
        stored.verify()
        for i in range(len(stored)):
            stored.get(i)
    except MccError:
        pass
