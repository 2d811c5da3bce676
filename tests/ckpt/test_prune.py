"""`prune`: the optimizer left out, a run's last checkpoints averaged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from mcc.ckpt.diff import diff
from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.ckpt.prune import prune
from mcc.ckpt.summary import inspect
from mcc.core.errors import MccError, UsageError
from tests.ckpt.models import SMALL, InMemory, assert_same_tensors

SLOTS = ("exp_avg", "exp_avg_sq")


def run_of(folder: Path, iterations: list[int], dtype: torch.dtype = torch.float32, to: str = "mcc") -> list[InMemory]:
    """A run with a checkpoint of other weights at each iteration; the last one's layout is TP 2 x PP 2."""
    models = []
    for number in iterations:
        model = InMemory(slots=SLOTS, iteration=number, dtype=dtype)
        model.values = {name: tensor * number for name, tensor in model.values.items()}
        formats.get(to)().write(model, folder / f"of{number}", WriteOptions(tp=2, pp=2))
        (folder / f"of{number}" / f"iter_{number:07d}").rename(folder / f"iter_{number:07d}")
        for file in (folder / f"of{number}").iterdir():
            file.rename(folder / file.name)
        (folder / f"of{number}").rmdir()
        models.append(model)
    return models


def test_the_optimizer_is_left_out(tmp_path: Path) -> None:
    (model,) = run_of(tmp_path / "run", [3])
    done = prune(tmp_path / "run", tmp_path / "lean")
    assert (done.format, done.dropped) == ("mcc", ("optimizer state",))
    found = inspect(tmp_path / "lean")
    assert (found.optimizer, found.iteration, found.layout.tp, found.layout.pp) == ((), 3, 2, 2)
    assert_same_tensors(open_checkpoint(tmp_path / "lean"), model)
    sizes = [sum(file.stat().st_size for file in (tmp_path / which).rglob("*.distcp")) for which in ("run", "lean")]
    assert sizes[1] < 0.4 * sizes[0]  # one of three copies
    assert prune(tmp_path / "lean", tmp_path / "st", WriteOptions(dtype="bf16"), to="mcc-safetensors").dropped == ()
    assert set(inspect(tmp_path / "st").dtypes) == {"bfloat16"}


@pytest.mark.parametrize("to", ["mcc", "megatron"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_last_ones_are_averaged_in_float32(tmp_path: Path, dtype: torch.dtype, to: str) -> None:
    models = run_of(tmp_path / "run", [1, 2, 5, 7], dtype, to)
    prune(tmp_path / "run", tmp_path / "mean", average=3)
    found = open_checkpoint(tmp_path / "mean")
    assert (found.meta.iteration, found.slots()) == (7, ())
    for name, dtype_found in found.dtypes().items():
        total = sum(model.values[name].float() for model in models[1:])
        assert dtype_found == dtype
        assert torch.equal(found.read(name), (total / 3).to(dtype)), name


def test_the_newest_is_the_one_that_latest_names(tmp_path: Path) -> None:
    models = run_of(tmp_path / "run", [1, 2, 3])
    (tmp_path / "run" / "latest").write_text("iter_0000002\n")
    prune(tmp_path / "run", tmp_path / "one")
    assert_same_tensors(open_checkpoint(tmp_path / "one"), models[1])
    prune(tmp_path / "run", tmp_path / "mean", average=2)
    mean = {name: (models[0].values[name] + models[1].values[name]) / 2 for name in models[0].values}
    assert all(torch.equal(open_checkpoint(tmp_path / "mean").read(name), tensor) for name, tensor in mean.items())


def test_what_cannot_be_averaged(tmp_path: Path) -> None:
    run_of(tmp_path / "run", [1, 2])
    with pytest.raises(UsageError, match="has 2 checkpoints iter_N to average, not 3"):
        prune(tmp_path / "run", tmp_path / "out", average=3)
    with pytest.raises(UsageError, match="has 0 checkpoints"):
        prune(tmp_path / "run" / "iter_0000002", tmp_path / "out", average=2)
    other = InMemory(dataclasses.replace(SMALL, num_layers=2), iteration=1)
    formats.get("mcc")().write(other, tmp_path / "other")
    (tmp_path / "run" / "iter_0000001").rename(tmp_path / "gone")
    (tmp_path / "other" / "iter_0000001").rename(tmp_path / "run" / "iter_0000001")
    with pytest.raises(MccError, match="iterations 1 and 2 are of different models"):
        prune(tmp_path / "run", tmp_path / "out", average=2)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="would replace the input"):
        prune(tmp_path / "run", tmp_path / "run", force=True)


def test_diff_of_optimizers(tmp_path: Path) -> None:
    (model,) = run_of(tmp_path / "run", [3])
    assert diff(tmp_path / "run", model, optimizer=True).max_abs == 0
    assert len(diff(tmp_path / "run", model, optimizer=True).tensors) == 3 * len(model.values)
    prune(tmp_path / "run", tmp_path / "lean")
    assert diff(tmp_path / "run", tmp_path / "lean").max_abs == 0
    missing = diff(tmp_path / "run", tmp_path / "lean", optimizer=True).only_a
    assert "optim.exp_avg.layers.0.mlp.up.weight" in missing
    with pytest.raises(MccError, match="neither checkpoint has optimizer state"):
        diff(tmp_path / "lean", tmp_path / "lean", optimizer=True)
