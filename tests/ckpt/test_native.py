"""Training's checkpoints read by one process: whole, sharded, damaged."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.ckpt.load import load_model
from mcc.core.errors import MccError, UsageError
from mcc.models.base.forms import pad_rows
from tests.ckpt.models import SMALL, InMemory, assert_same_tensors, byte_tokenizer
from tests.ranks import run_ranks

# torch remarks that there is no process group: the plain save of these tests is meant so.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

SLOTS = ("exp_avg", "exp_avg_sq")
ROWS = 320  # 301 padded for TP 8


def state(source: InMemory) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, tensor in source.values.items():
        rows = ROWS if name == "embedding.tokens.weight" else tensor.shape[0]
        values[f"model.{name}"] = pad_rows(tensor, rows)
        for slot in source.slots():
            values[f"optim.{slot}.{name}"] = pad_rows(source.read_slot(slot, name), rows)
    return values


def manifest(folder: Path, **changes: Any) -> None:
    values = {
        "format": "mcc",
        "version": 1,
        "model": dataclasses.asdict(SMALL),
        "iteration": 100,
        "consumed_samples": 800,
        "layout": {"tp": 8, "pp": 2, "dp": 1},
        "padded_vocab_size": ROWS,
        "tokenizer": None,
        "has_optimizer": True,
    }
    (folder / "mcc.json").write_text(json.dumps(values | changes))


def training_run(run: Path, source: InMemory) -> Path:
    """As training leaves it, but saved by a plain dcp.save of one process."""
    folder = run / "iter_0000100"
    others = {"rank.0.codec": torch.ones(3), "rank.1.words": [1, 2, "three"]}
    dcp.save(state(source) | others, checkpoint_id=folder, no_dist=True)
    manifest(folder)
    (run / "latest").write_text("iter_0000100")
    return folder


def test_plain_save_is_read(tmp_path: Path) -> None:
    source = InMemory(slots=SLOTS)
    folder = training_run(tmp_path, source)
    for path in (tmp_path, folder):
        found = open_checkpoint(path)
        assert_same_tensors(found, source)
        assert found.slots() == SLOTS
        for slot in SLOTS:
            for name in source.values:
                assert torch.equal(found.read_slot(slot, name), source.read_slot(slot, name)), (slot, name)
        assert found.meta.iteration == 100
        assert (found.meta.layout.tp, found.meta.layout.pp) == (8, 2)
        assert found.meta.padded_vocab_size == ROWS
        assert found.meta.extra["consumed_samples"] == 800


def test_padding_that_training_left_is_not_loaded(tmp_path: Path) -> None:
    source = InMemory()
    folder = tmp_path / "iter_0000100"
    values = state(source)
    values["model.embedding.tokens.weight"][301:] = 7.0
    dcp.save(values, checkpoint_id=folder, no_dist=True)
    manifest(folder)
    weight = load_model(folder).model.embedding.tokens.weight
    assert weight.shape[0] == SMALL.padded_vocab_size(1) == 304
    assert torch.equal(weight[:301], source.values["embedding.tokens.weight"])
    assert not weight[301:].any()


def save_sharded(folder: str) -> None:
    """Every rank saves its rows or columns, as tensor parallelism holds them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    from mcc.models.base.family import families

    mesh = init_device_mesh("cpu", (2,))
    family = families.get("gpt2")()
    sharded = {}
    for key, tensor in state(InMemory()).items():
        dim = family.row(key.removeprefix("model.")).tp_dim
        sharded[key] = distribute_tensor(tensor, mesh, [Replicate() if dim is None else Shard(dim)])
    dcp.save(sharded, checkpoint_id=folder)


def test_shards_of_several_ranks_are_read_whole(tmp_path: Path) -> None:
    folder = tmp_path / "iter_0000100"
    run_ranks(save_sharded, 2, str(folder))
    manifest(folder)
    assert len(list(folder.glob("*.distcp"))) == 2
    assert_same_tensors(open_checkpoint(folder), InMemory())

    second = next(folder.glob("__1_*.distcp"))
    size = second.stat().st_size
    os.truncate(second, size // 2)
    with pytest.raises(MccError, match=rf"{second.name} is truncated in tensor model\."):
        list(open_checkpoint(folder).tensors())
    second.write_bytes(b"\x00" * size)
    with pytest.raises(MccError, match=r"iter_0000100: tensor model\..* cannot be read"):
        list(open_checkpoint(folder).tensors())
    second.unlink()
    with pytest.raises(MccError, match=rf"missing file .*{second.name}: tensor model\..* is in it"):
        list(open_checkpoint(folder).tensors())


@pytest.mark.parametrize("slots", [(), SLOTS])
def test_written_checkpoint_is_one_of_training(tmp_path: Path, slots: tuple[str, ...]) -> None:
    source = InMemory(slots=slots, iteration=40, tokenizer=byte_tokenizer(tmp_path / "t.json"))
    report = formats.get("mcc")().write(source, tmp_path / "run", WriteOptions(tp=4, pp=2))
    assert report.dropped == ()
    folder = tmp_path / "run" / "iter_0000040"
    assert (tmp_path / "run" / "latest").read_text().strip() == folder.name
    # What torch itself finds in it.
    keys = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    assert list(keys["model.embedding.tokens.weight"].size) == [SMALL.padded_vocab_size(4), 32]
    assert len(keys) == len(source.values) * (1 + len(slots))
    whole = torch.empty(SMALL.padded_vocab_size(4), 32)
    dcp.load({"model.embedding.tokens.weight": whole}, checkpoint_id=folder, no_dist=True)
    assert torch.equal(whole[:301], source.values["embedding.tokens.weight"])
    assert not whole[301:].any()

    values = json.loads((folder / "mcc.json").read_text())
    assert (values["has_optimizer"], values["consumed_samples"]) == (bool(slots), 320)
    found = open_checkpoint(tmp_path / "run")
    assert_same_tensors(found, source)
    for slot in slots:
        assert torch.equal(found.read_slot(slot, "final_norm.bias"), source.read_slot(slot, "final_norm.bias"))
    assert found.meta.tokenizer == folder / "tokenizer.json"


def test_optimizer_state_is_reported_when_it_cannot_be_kept(tmp_path: Path) -> None:
    training_run(tmp_path / "run", InMemory(slots=SLOTS))
    source = open_checkpoint(tmp_path / "run")
    for name in ("hf", "mcc-safetensors"):
        assert formats.get(name)().write(source, tmp_path / name).dropped == ("optimizer state",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2 is newer than this mcc"),
        ({"model": {**dataclasses.asdict(SMALL), "num_layers": 5}}, r"no tensor model\.layers\.4\."),
        ({"model": {**dataclasses.asdict(SMALL), "hiden_size": 32}}, "unknown key 'hiden_size'; did you mean"),
        ({"model": {**dataclasses.asdict(SMALL), "num_layers": "many"}}, "num_layers"),
        ({"padded_vocab_size": 304}, r"has shape \[320, 32\], not \[304, 32\]"),
        ({"tokenizer": "tokenizer.json"}, "names the tokenizer tokenizer.json, which is missing"),
        ({"model": None}, "mcc.json"),
    ],
)
def test_description_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    manifest(training_run(tmp_path, InMemory()), **changes)
    with pytest.raises(MccError, match=message):
        open_checkpoint(tmp_path)


def test_incomplete_folders(tmp_path: Path) -> None:
    folder = training_run(tmp_path, InMemory())
    (tmp_path / "latest").write_text("iter_0000200")
    with pytest.raises(MccError, match="names the checkpoint 'iter_0000200', which is not there"):
        open_checkpoint(tmp_path)
    (folder / ".metadata").write_bytes((folder / ".metadata").read_bytes()[:50])
    with pytest.raises(MccError, match=r"\.metadata cannot be read"):
        open_checkpoint(folder)
    (folder / ".metadata").unlink()
    with pytest.raises(MccError, match=r"\.metadata cannot be read: .*No such file"):
        open_checkpoint(folder)


def test_layout_that_training_cannot_have_is_refused(tmp_path: Path) -> None:
    for options in (WriteOptions(tp=3), WriteOptions(pp=5)):
        with pytest.raises(UsageError):
            formats.get("mcc")().write(InMemory(), tmp_path / "run", options)
    assert list(tmp_path.iterdir()) == []
