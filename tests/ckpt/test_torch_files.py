"""torch.save files written and read a tensor at a time, against torch's own reader and writer."""

from __future__ import annotations

import os
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from mcc.ckpt import stored_zip
from mcc.ckpt.stored_zip import StoredZip
from mcc.ckpt.torch_read import FileTensor, open_torch
from mcc.ckpt.torch_write import Later, torch_writer
from mcc.core.errors import MccError
from mcc.core.files import Output
from tests.ckpt.test_foreign import Hostile, attacks

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool]


def numbers(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return (torch.arange(torch.Size(shape).numel()) % 7).reshape(shape).to(dtype)


@pytest.mark.parametrize("large", [False, True], ids=["sizes of 4 bytes", "sizes of 8 bytes"])
def test_torch_reads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    if large:
        monkeypatch.setattr(stored_zip, "_LARGE", 1)
        monkeypatch.setattr(stored_zip, "_PIECE", 7)  # and several pieces
    tensors = {str(dtype): numbers(dtype, 3, 5) for dtype in DTYPES} | {
        "none": torch.zeros(0, 4),
        "scalar": torch.tensor(3.0),
    }
    later = {name: Later(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    file = tmp_path / "model_optim_rng.pt"
    value = {"model": later, "args": Namespace(dtype=torch.bfloat16, sizes=[1, 2]), "small": torch.arange(3)}
    with torch_writer(file, value) as writer:
        for name in reversed(tensors):
            writer.put(later[name], tensors[name])
    for options in ({"weights_only": False}, {"weights_only": True}, {"weights_only": True, "mmap": True}):
        with torch.serialization.safe_globals([Namespace]):
            back = torch.load(file, **options)
        assert vars(back["args"]) == {"dtype": torch.bfloat16, "sizes": [1, 2]}
        assert torch.equal(back["small"], torch.arange(3))
        for name, tensor in tensors.items():
            assert back["model"][name].dtype == tensor.dtype
            assert torch.equal(back["model"][name], tensor), name
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None  # the checksums
        for info in archive.infolist():
            lengths = file.read_bytes()[info.header_offset + 26 : info.header_offset + 30]
            start = info.header_offset + 30 + int.from_bytes(lengths[:2], "little")
            start += int.from_bytes(lengths[2:], "little")
            assert "/data/" not in info.filename or start % 64 == 0, info.filename


def test_archives_of_many_members(tmp_path: Path) -> None:
    """In its two bytes 65,535 says that their number stands elsewhere."""
    file, count = tmp_path / "x.zip", 0xFFFF
    with Output(file) as out:
        archive = StoredZip(out, "x")
        for number in range(count):
            archive.add(str(number), b"")
        archive.finish()
    with zipfile.ZipFile(file) as found:
        assert [info.filename for info in found.infolist()] == [f"x/{number}" for number in range(count)]
    assert b"PK\6\6" in file.read_bytes()[-200:]


def test_a_tensor_that_was_never_written(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), torch_writer(tmp_path / "x.pt", [Later(torch.float32, (2,))]):
        pass


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
def test_what_torch_writes_is_read(tmp_path: Path, new: bool) -> None:
    whole = torch.randn(6, 8)
    marked = torch.nn.Parameter(torch.randn(4))
    marked.partition_dim = 0  # type: ignore[attr-defined]
    plain = torch.randn(2, 2)
    plain.shared = True  # type: ignore[attr-defined]
    expected = OrderedDict(
        whole=whole, rows=whole[2:4], turned=whole.T, columns=whole[:, 3:5], parameter=marked, plain=plain,
        scalar=torch.tensor(2.5), half=torch.randn(3).bfloat16(), none=torch.zeros(0, 3),
    )  # fmt: skip
    file = tmp_path / "x.pt"
    torch.save({"tensors": expected, "step": 3, "args": Namespace(a=1)}, file, _use_new_zipfile_serialization=new)
    value = open_torch(file)
    assert (value["step"], value["args"].a) == (3, 1)
    for name, tensor in expected.items():
        found = value["tensors"][name]
        assert isinstance(found, FileTensor)
        assert (found.dtype, found.shape) == (tensor.dtype, tuple(tensor.shape))
        assert torch.equal(found.read(), tensor.detach()), name
        if tensor.dim() == 2 and len(tensor) > 1:
            assert torch.equal(found.read((1, 2)), tensor[1:2]), name
    into = torch.zeros(6, 10)
    value["tensors"]["whole"].read_into(into[:, 1:9])
    assert torch.equal(into[:, 1:9], whole)
    assert not into[:, 0].any()


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    """Cutting the last tensor's bytes is seen only when it is read: here under a directory that still names it."""
    file = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1000), "b": torch.ones(10)}, file)
    value = open_torch(file)
    os.truncate(file, 1500)
    with pytest.raises(MccError, match=r"x\.pt is truncated in x/data/"):
        value["a"].read()


@pytest.mark.parametrize("name", list(attacks(Path())))
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    mark, file = tmp_path / "it ran", tmp_path / "model.pt"
    torch.save({"model": {"weight": torch.ones(3)}, "args": attacks(mark)[name]}, file)
    with pytest.raises(MccError) as refused:
        open_torch(file)
    assert name.rpartition(".")[2] in refused.value.what
    assert not mark.exists()


def test_a_name_that_the_scan_does_not_see(tmp_path: Path) -> None:
    """STACK_GLOBAL takes its strings from the memo: the unpickler decides by itself."""
    mark, file = tmp_path / "it ran", tmp_path / "model.pt"
    command = f"touch '{mark}'".encode()
    text = b"X" + len(command).to_bytes(4, "little") + command
    attack = (
        b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x8c\x05numpy\x94\x8c\x04core\x94" + b"00" + b"00h\x00h\x01\x93"
        + text + b"\x85R."
    )  # fmt: skip
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", attack)
    with pytest.raises(MccError, match=r"posix\.system"):
        open_torch(file)
    assert not mark.exists()
    pickle.loads(attack)
    assert mark.exists()  # the attack is one


@pytest.mark.parametrize(
    ("stride", "offset", "size"), [((1,), 0, (100,)), ((1,), 90, (20,)), ((-1,), 0, (3,)), ((1,), -4, (2,))]
)
def test_a_view_beyond_its_storage(tmp_path: Path, stride: tuple[int], offset: int, size: tuple[int]) -> None:
    class View:
        def __reduce__(self) -> object:
            storage = torch.zeros(96).untyped_storage()
            typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (typed, offset, size, stride, False, OrderedDict())

    torch.save({"model": View()}, tmp_path / "x.pt")
    with pytest.raises(MccError, match="does not fit into its x/data/0"):
        open_torch(tmp_path / "x.pt")


def test_class_of_a_known_system_does_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02cmegatron.evil\nrun\nX\x05\x00\x00\x00rm -r\x85R.")
    assert type(open_torch(file)).__name__ == "run"
    torch.save(Hostile(os.getcwd), file)
    with pytest.raises(MccError, match="getcwd"):
        open_torch(file)
