"""torch.distributed.checkpoint folders: mapped where torch's own reader would copy, and written for it."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from mcc.ckpt.checksums import digest
from mcc.ckpt.dcp import DcpFolder
from mcc.ckpt.dcp_tensor import NotPlain, map_saved
from mcc.ckpt.dcp_write import write_dcp
from mcc.ckpt.torch_write import Later, TorchWriter
from mcc.core.files import Output

VALUES = {
    "a": torch.arange(12.0).reshape(3, 4),
    "b": torch.arange(6, dtype=torch.bfloat16),
    "c": torch.tensor(3.5, dtype=torch.float64),
    "d": torch.ones(2, 0),
    "e": torch.arange(5),
}


def write(folder: Path, **more: Any) -> dict[str, Any]:
    entries = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in VALUES.items()}
    return write_dcp(folder, entries, VALUES.__getitem__, **more)


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_reads_what_is_written(tmp_path: Path, workers: int) -> None:
    sums = write(tmp_path, workers=workers)
    assert sums == {"__0_0.distcp": digest(tmp_path / "__0_0.distcp")}
    found = {key: torch.zeros_like(tensor) for key, tensor in VALUES.items()}
    dcp.load(found, checkpoint_id=tmp_path, no_dist=True)
    assert all(torch.equal(found[key], tensor) for key, tensor in VALUES.items())


def test_described_as_torch_does(tmp_path: Path) -> None:
    write(tmp_path / "a")
    dcp.save(VALUES, checkpoint_id=tmp_path / "b", no_dist=True)
    ours, theirs = (pickle.loads((tmp_path / which / ".metadata").read_bytes()) for which in "ab")
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data.keys() == theirs.storage_data.keys()
    assert ours.version == theirs.version


@pytest.mark.parametrize("by", ["us", "torch"])
def test_mapped_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "us":
        write(tmp_path)
    else:
        dcp.save(VALUES, checkpoint_id=tmp_path, no_dist=True)
    monkeypatch.delattr(DcpFolder, "_by_torch")
    folder = DcpFolder(tmp_path)
    for key, tensor in VALUES.items():
        found = folder.read(key)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor), key


def test_only_tensors_of_numbers_are_mapped(tmp_path: Path) -> None:
    """Views are; what is no such tensor is torch's to read, or to refuse."""
    file = tmp_path / "x"
    whole = torch.arange(20.0).reshape(4, 5)

    def saved(value: Any) -> tuple[Path, int, int]:
        with file.open("wb") as out:
            out.write(b"before it")
            torch.save(value, out)
        return file, 9, file.stat().st_size - 9

    assert torch.equal(map_saved(*saved(whole[1:, ::2])), whole[1:, ::2])
    assert torch.equal(map_saved(*saved(whole.T)), whole.T)
    for value in ({"a": whole}, whole.to_sparse(), "text", torch.nn.Parameter(whole)):
        with pytest.raises(NotPlain):
            map_saved(*saved(value))
    where = saved(whole)
    file.write_bytes(file.read_bytes().replace(b"_rebuild_tensor_v2", b"_rebuild_parameter"))
    with pytest.raises(NotPlain):
        map_saved(*where)


def test_the_archive_of_a_tensor_is_one_that_torch_reads(tmp_path: Path) -> None:
    """In the middle of a file too; the checksum is that of its bytes."""
    file, before = tmp_path / "x", b"before it"
    for tensor in (*VALUES.values(), torch.arange(20.0).reshape(4, 5)[1:, ::2], torch.ones(3).to(torch.float8_e5m2)):
        with Output(file) as out:
            out.write(before)
            later = Later(tensor.dtype, tuple(tensor.shape))
            writer = TorchWriter(out, later)
            writer.put(later, tensor)
            writer.finish()
        data = file.read_bytes().removeprefix(before)
        assert (len(data), zlib.crc32(data)) == (writer.archive.size_bytes, writer.archive.crc32)
        assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
        found = torch.load(io.BytesIO(data), weights_only=True)
        assert found.dtype == tensor.dtype
        assert torch.equal(found.float(), tensor.float())
