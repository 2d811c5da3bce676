"""Conversion between formats: safety of files, comparison, verification."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mcc.ckpt import convert as module
from mcc.ckpt.convert import convert, merge, split
from mcc.ckpt.diff import diff
from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.ckpt.summary import inspect
from mcc.ckpt.verify import verify
from mcc.core.errors import MccError, UsageError
from mcc.models.base.config import ModelConfig
from tests.ckpt.models import SMALL, InMemory, transformers_gpt2


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    formats.get("mcc-safetensors")().write(InMemory(), tmp_path / "merged")
    return tmp_path / "merged"


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_every_file_of_a_full_circle(merged: Path, tmp_path: Path) -> None:
    convert(merged, tmp_path / "run", "mcc", WriteOptions(tp=2, pp=4))
    split(tmp_path / "run", tmp_path / "meg", tp=4, pp=2, options=WriteOptions(megatron_version=0))
    convert(tmp_path / "meg", tmp_path / "again", "mcc", WriteOptions(tp=4))
    merge(tmp_path / "again", tmp_path / "b")
    assert files(tmp_path / "b") == files(merged)


def test_output_in_use_is_left_alone(merged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="out is not empty"):
        convert(merged, out, "hf")
    assert files(out) == {"mine.txt": b"keep"}
    convert(merged, out, "hf", force=True)
    assert not (out / "mine.txt").exists()
    assert inspect(out).format == "hf"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert convert(merged, empty, "hf").path == empty
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        convert(merged, tmp_path / "file", "hf", force=True)


def test_input_is_never_replaced(merged: Path, tmp_path: Path) -> None:
    before = files(merged)
    for out in (merged, tmp_path, merged / ".." / "merged"):
        with pytest.raises(UsageError, match="would replace the input"):
            convert(merged, out, "hf", force=True)
    with pytest.raises(UsageError, match="would be inside the input"):
        convert(merged, merged / "deep" / "inside", "hf", force=True)
    assert files(merged) == before


def test_failure_half_way_leaves_nothing(merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = type(open_checkpoint(merged))
    read = source.read

    def broken(self: object, name: str) -> torch.Tensor:
        if name.startswith("layers.3"):
            raise MccError("the disk went away")
        return read(self, name)  # type: ignore[arg-type]

    monkeypatch.setattr(source, "read", broken)
    for name in (name for name, plugin in formats.all() if not plugin.read_only):
        with pytest.raises(MccError, match="the disk went away"):
            convert(merged, tmp_path / "out", name)
    assert [entry.name for entry in tmp_path.iterdir()] == ["merged"]


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("name", [name for name, plugin in formats.all() if not plugin.read_only])
def test_room_is_counted_as_it_is_written(tmp_path: Path, name: str, dtype: str | None) -> None:
    """Optimizer state, exact copies of 16-bit weights, what each tensor-parallel rank has alike, padding."""
    plugin = formats.get(name)()
    layout = {"tp": 2, "pp": 2} if plugin.layouts else {}
    options = WriteOptions(dtype=dtype, **layout)
    source = InMemory(slots=("exp_avg", "exp_avg_sq"))
    done = plugin.write(source, tmp_path / "out", options)
    assert plugin.size_bytes(source, options) == done.size_bytes
    held = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert done.size_bytes < held < done.size_bytes + 200_000  # what describes them
    weights = sum(math.prod(shape) for shape in source.shapes().values())
    if plugin.layouts:
        assert done.size_bytes > weights * (2 if dtype else 4) + 2 * weights * 4


def test_full_disk_is_noticed_before_writing(merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / ".out.partial"  # of a killed run
    left.mkdir()
    (left / "half").write_text("x")

    class Usage:
        free = inspect(merged).size_bytes - 1

    def usage(path: Path) -> type[Usage]:
        assert not left.exists()
        return Usage

    monkeypatch.setattr(module.shutil, "disk_usage", usage)
    with pytest.raises(MccError, match=r"has 0\.00 GB free; the output's tensors take 0\.00 GB"):
        convert(merged, tmp_path / "out", "hf")
    assert [entry.name for entry in tmp_path.iterdir()] == ["merged"]
    convert(merged, tmp_path / "out", "hf", WriteOptions(dtype="bfloat16"))  # half the size fits


def test_formats_without_layouts_refuse_them(merged: Path, tmp_path: Path) -> None:
    for name in ("hf", "mcc-safetensors"):
        with pytest.raises(UsageError, match="is one whole model"):
            split(merged, tmp_path / "out", tp=2, pp=1, to=name)
    with pytest.raises(UsageError, match="unknown checkpoint format 'megatronn'; did you mean 'megatron'"):
        split(merged, tmp_path / "out", tp=2, pp=1, to="megatronn")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(MccError, match="no such checkpoint"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(MccError, match="is empty"):
        open_checkpoint(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(MccError, match="is not a checkpoint") as refused:
        open_checkpoint(tmp_path)
    for name in formats.names():
        assert f"{name}: " in str(refused.value.hint)
    (tmp_path / "mcc.json").write_text('{"format": "mcc-safe')
    with pytest.raises(MccError, match=r"mcc\.json names no format: it is damaged"):
        open_checkpoint(tmp_path)
    with pytest.raises(MccError, match="is not in the format hf"):
        open_checkpoint(tmp_path, "hf")
    with pytest.raises(MccError, match="is a file"):
        open_checkpoint(tmp_path / "file")


def test_diff() -> None:
    a, b = InMemory(), InMemory()
    same = diff(a, b)
    assert (same.max_abs, same.max_rel, len(same.tensors)) == (0.0, 0.0, len(a.values))
    a.values["final_norm.weight"][3], b.values["final_norm.weight"][3] = 1.0, 1.5
    a.values["final_norm.bias"][0] = b.values["final_norm.bias"][0] = math.nan
    changed = {row.name: row for row in diff(a, b).tensors if row.max_abs}
    assert list(changed) == ["final_norm.weight"]
    assert changed["final_norm.weight"].max_abs == 0.5
    assert changed["final_norm.weight"].max_rel == pytest.approx(1 / 3)
    b.values["final_norm.bias"][0] = 0.0
    assert diff(a, b).max_abs == math.inf  # NaN against a number
    b.values["final_norm.bias"][0] = math.nan
    b.values["layers.0.mlp.up.bias"] = b.values["layers.0.mlp.up.bias"].to(torch.bfloat16)
    noted = next(row for row in diff(a, b).tensors if row.name == "layers.0.mlp.up.bias")
    assert noted.note == "float32 and bfloat16"
    assert 0 < noted.max_rel <= 2**-8  # half a unit of bfloat16's 8 bits
    del b.values["layers.0.mlp.up.bias"]
    assert diff(a, b).only_a == ("layers.0.mlp.up.bias",)
    assert diff(a, b).max_abs == math.inf
    b = InMemory(ModelConfig(**(vars(SMALL) | {"vocab_size": 300})))
    assert "shapes [301, 32] and [300, 32]" in [row.note for row in diff(InMemory(), b).tensors]


def test_verify(merged: Path, tmp_path: Path) -> None:
    convert(merged, tmp_path / "hf", "hf")
    split(merged, tmp_path / "meg", tp=2, pp=2)
    report = verify(tmp_path / "meg", tmp_path / "hf")
    assert report.runs == ("mcc", "transformers")
    assert report.passed
    assert 0 < report.max_abs_diff <= 1e-4
    assert report.tokens == 32
    assert report.losses[0] == pytest.approx(report.losses[1], abs=1e-5)
    assert verify(tmp_path / "meg", merged).max_abs_diff == 0.0

    transformers_gpt2().save_pretrained(tmp_path / "theirs")
    alone = verify(tmp_path / "theirs")
    assert (alone.runs, alone.passed) == (("mcc", "transformers"), True)
    assert not verify(merged, tmp_path / "theirs").passed
    assert verify(tmp_path / "theirs", tmp_path / "theirs").runs == ("transformers", "transformers")
    transformers_gpt2(vocab_size=300).save_pretrained(tmp_path / "other")
    with pytest.raises(MccError, match=r"vocabulary of 301 tokens, .* of 300"):
        verify(merged, tmp_path / "other")
    with pytest.raises(UsageError, match="nothing to compare"):
        verify(merged)


def test_inspect(merged: Path, tmp_path: Path) -> None:
    split(merged, tmp_path / "meg", tp=2, pp=2, options=WriteOptions(dtype="bf16"))
    found = inspect(tmp_path / "meg")
    # D = 32: tokens, positions, 4 layers of 12 D^2 + 13 D, the last norm.
    assert found.parameters == 301 * 32 + 16 * 32 + 4 * (12 * 32 * 32 + 13 * 32) + 2 * 32
    assert (found.format, found.size_bytes, found.tied) == ("megatron", 2 * found.parameters, True)
    assert found.dtypes == {"bfloat16": len(found.tensors)}
    assert found.padded_vocab_size == 304
