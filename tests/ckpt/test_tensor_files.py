"""Our streaming safetensors writer and header check, against the reference library."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from mcc.ckpt.tensor_files import Entry, TensorFiles, write_tensors
from mcc.core.errors import MccError

TENSORS = {
    "half": torch.arange(7).half(),
    "wide": torch.randn(3, 5),
    "bytes": torch.arange(9, dtype=torch.uint8),
    "brain": torch.randn(5).bfloat16(),
    "double": torch.randn(2, 2, dtype=torch.float64),
    "empty": torch.empty(0, 4),
    "scalar": torch.tensor(2.5),
    "turned": torch.randn(4, 6).T,
    "long": torch.tensor([2**60]),
    "truth": torch.tensor([True, False]),
}


def entries(tensors: dict[str, torch.Tensor]) -> list[Entry]:
    return [Entry(name, t.dtype, tuple(t.shape), lambda t=t: t) for name, t in tensors.items()]  # type: ignore[misc]


def test_reference_library_reads_ours(tmp_path: Path) -> None:
    size = write_tensors(tmp_path, entries(TENSORS))
    found = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert size == sum(tensor.nbytes for tensor in TENSORS.values())


def test_every_tensor_starts_at_a_multiple_of_its_item_size(tmp_path: Path) -> None:
    """So that a reader may map the file and use the numbers where they are."""
    write_tensors(tmp_path, entries(TENSORS))
    data = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    for name, tensor in TENSORS.items():
        assert header[name]["data_offsets"][0] % tensor.itemsize == 0, name


def test_ours_reads_the_reference_library(tmp_path: Path) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    safetensors.torch.save_file(contiguous, tmp_path / "model.safetensors", metadata={"format": "pt"})
    files = TensorFiles(tmp_path)
    assert set(files.stored) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert (files.stored[name].dtype, files.stored[name].shape) == (tensor.dtype, tuple(tensor.shape))
        assert torch.equal(files.read(name), tensor), name


@pytest.mark.parametrize("places", [{"data_offsets": [0, 8]}, {"data_offsets": [-4, 0]}, {"shape": [-1]}, {"shape": 1}])
def test_places_that_make_no_sense(tmp_path: Path, places: dict[str, Any]) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **places}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(MccError, match=r"model\.safetensors"):
        TensorFiles(tmp_path).read("a")


def test_what_is_changed_in_a_tensor_changes_no_file(tmp_path: Path) -> None:
    write_tensors(tmp_path, [Entry("a", torch.float32, (3,), lambda: torch.ones(3))])
    TensorFiles(tmp_path).read("a").zero_()
    assert TensorFiles(tmp_path).read("a").tolist() == [1, 1, 1]


def test_reads_one_tensor_at_a_time(tmp_path: Path) -> None:
    """The next tensor is asked for when the one before is in the file."""
    written: list[int] = []
    file = tmp_path / "model.safetensors"

    def read() -> torch.Tensor:
        written.append(file.stat().st_size)
        return torch.ones(1 << 18)  # beyond any buffer of the file

    write_tensors(tmp_path, [Entry(str(i), torch.float32, (1 << 18,), read) for i in range(4)], workers=0)
    steps = [b - a for a, b in pairwise(written)]
    assert all(abs(step - (1 << 20)) < 1 << 17 for step in steps), written


def test_index_must_fit_the_shards(tmp_path: Path) -> None:
    write_tensors(tmp_path, entries(TENSORS), shard_bytes=64)
    index = tmp_path / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    first = next(iter(values["weight_map"].values()))
    for change, message in [
        ({"more": first}, rf"{first} has no tensor more"),
        ({"more": "../../secret.safetensors"}, "tensor more lies outside the folder"),
        ({"more": "gone.safetensors"}, "missing shard .*gone.safetensors: tensor more"),
    ]:
        index.write_text(json.dumps(values | {"weight_map": values["weight_map"] | change}))
        with pytest.raises(MccError, match=message):
            TensorFiles(tmp_path)
    index.write_text("[]")
    with pytest.raises(MccError, match="is not an index of shards"):
        TensorFiles(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated in its header"),
        (b"\xff" * 8 + b"{}", "truncated in its header"),
        (b"\x02" + b"\x00" * 7 + b"[]", "not a safetensors file"),
        (b"\x05" + b"\x00" * 7 + b"hello", "not a safetensors file"),
    ],
)
def test_malformed_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(MccError, match=message):
        TensorFiles(tmp_path)


def test_unknown_dtype(tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\x00")
    with pytest.raises(MccError, match="tensor x has the unknown dtype F4"):
        TensorFiles(tmp_path)
