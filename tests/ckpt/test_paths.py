"""Random models through random formats and layouts: every way gives the same tensors."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.ckpt.convert import convert, merge, split
from mcc.ckpt.diff import diff
from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.ckpt.megatron_args import require_megatron
from mcc.ckpt.source import MASTER, Source
from mcc.core.errors import UsageError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from tests.ckpt.models import InMemory, assert_same_tensors

LAYERS, HEADS = 4, 4

WRITTEN = [name for name, plugin in formats.all() if not plugin.read_only]

DOCUMENT = Path(__file__).parents[2] / "docs" / "checkpoints.md"


@pytest.mark.parametrize("target", WRITTEN)
@pytest.mark.parametrize("origin", WRITTEN)
def test_every_format_to_every_format(tmp_path: Path, origin: str, target: str) -> None:
    model = InMemory()
    formats.get(origin)().write(model, tmp_path / "a")
    formats.get(target)().write(open_checkpoint(tmp_path / "a"), tmp_path / "b")
    assert_same_tensors(open_checkpoint(tmp_path / "b", target), model)


def test_the_document_has_every_format() -> None:
    rows = [line.split("|")[1].strip() for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if "|" in line]
    for name in formats.names():
        assert f"`{name}`" in rows, f"docs/checkpoints.md lacks a row for {name}"


@st.composite
def configs(draw: Any) -> ModelConfig:
    """A small model of any family, with any of its heads and options."""
    family = draw(st.sampled_from(families.names()))
    plugin = families.get(family)
    blueprint = plugin.blueprint
    llama = blueprint.norm == "rms"  # the families that share key/value heads
    head = draw(st.sampled_from(blueprint.heads))
    window = draw(st.sampled_from([None, 9])) if blueprint.window else None
    return ModelConfig(
        family=family,
        head=head,
        num_labels=3 if head == "classification" else 2,  # the other heads' files do not tell it
        num_tokentypes=1 if family == "roberta" else 2,
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        num_query_groups=draw(st.sampled_from([None, 1, 2])) if llama else None,
        hidden_size=HEADS * draw(st.sampled_from([2, 4] if blueprint.positions == "rotary" else [1, 3, 4])),
        ffn_hidden_size=draw(st.sampled_from([None, 4, 12])),
        untie_embeddings_and_output_weights=draw(st.booleans()) and any(row.untied for row in plugin.params),
        sliding_window=window,
        seq_length=9 if window else draw(st.integers(1, 9)),
        vocab_size=draw(st.integers(1, 70)),
        make_vocab_size_divisible_by=draw(st.sampled_from([1, 3, 8, 128])),
    )


def targets(config: ModelConfig) -> list[str]:
    """The formats that are written, and have a place for the model."""
    try:
        require_megatron(families.get(config.family)(), config, 3.0)
    except UsageError:
        lacking = {"megatron", "acsgd"}
    else:
        lacking = set() if config.family == "gpt2" else {"acsgd"}
    return [name for name in WRITTEN if name not in lacking]


@st.composite
def steps(draw: Any, config: ModelConfig, names: list[str]) -> tuple[str, WriteOptions]:
    name = draw(st.sampled_from(names))
    if not formats.get(name).layouts:
        return name, WriteOptions(shard_bytes=draw(st.sampled_from([1, 1000, 10**9])), hf_bin=draw(st.booleans()))
    tp = draw(st.sampled_from([n for n in (1, 2, 4) if config.query_groups % n == 0]))
    pp, vpp = draw(st.sampled_from([(1, 1), (2, 1), (4, 1), (2, 2)]))
    versions = [0, 1, 2, 3] if config.query_groups == HEADS else [2, 3]  # before 2 every head has keys of its own
    version = draw(st.sampled_from(versions))
    return name, WriteOptions(tp=tp, pp=pp, vpp=vpp if name == "megatron" else 1, megatron_version=version)


class Trained(InMemory):
    """Weights as training in 16 bits keeps them: rounded from exact ones, which the optimizer has."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, slots=("exp_avg", "exp_avg_sq", MASTER), iteration=3)
        self.exact = self.values
        self.values = {name: tensor.to(torch.bfloat16) for name, tensor in self.exact.items()}

    def read_slot(self, slot: str, name: str) -> torch.Tensor:
        return self.exact[name] if slot == MASTER else super().read_slot(slot, name)


def through(source: Source, path: list[tuple[str, WriteOptions]], folder: Path) -> Source:
    """The checkpoint at the end of a path."""
    for number, (name, options) in enumerate(path):
        out = folder / str(number)
        formats.get(name)().write(source, out, options)
        source = open_checkpoint(out)
        assert type(source) is type(open_checkpoint(out, name))
    return source


def assert_same_model(found: Source, model: Source) -> None:
    assert_same_tensors(found, model)
    same = {"make_vocab_size_divisible_by": 1}  # of the padding some formats say nothing
    assert replace(found.meta.config, **same) == replace(model.meta.config, **same)


@settings(max_examples=18)
@given(data=st.data())
def test_all_paths_commute(data: st.DataObject) -> None:
    """Whatever the way, the model at its end is the one at its beginning: any two ways end alike."""
    config = data.draw(configs())
    model = InMemory(config, dtype=data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])))
    path = data.draw(st.lists(steps(config, targets(config)), min_size=1, max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        assert_same_model(through(model, path, Path(folder)), model)


@settings(max_examples=8)
@given(data=st.data())
def test_optimizer_state_commutes(data: st.DataObject) -> None:
    """With moments, and with the exact copies of weights in 16 bits, which `mcc` keeps as its weights."""
    config = data.draw(configs())
    names = [name for name in targets(config) if formats.get(name).layouts]
    half = data.draw(st.booleans()) and "megatron" in names
    model = Trained(config) if half else InMemory(config, slots=("exp_avg", "exp_avg_sq"), iteration=3)
    path = data.draw(st.lists(steps(config, names), min_size=1, max_size=2))
    path.append(data.draw(steps(config, ["megatron"] if half else names)))
    with tempfile.TemporaryDirectory() as folder:
        found = through(model, path, Path(folder))
        assert_same_model(found, model)
        assert found.meta.iteration == 3
        assert diff(found, model, optimizer=True).max_abs == 0


@settings(max_examples=6)
@given(data=st.data())
def test_split_then_merge_is_the_identity(data: st.DataObject) -> None:
    """The bytes of the files: of what `merge` writes, and of a run's checkpoint that was split and put together."""
    config = data.draw(configs())
    names = [name for name in targets(config) if formats.get(name).layouts]
    to, options = data.draw(steps(config, names))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        formats.get("mcc")().write(InMemory(config, slots=("exp_avg", "exp_avg_sq"), iteration=3), folder / "run")
        merge(folder / "run", folder / "whole")
        split(folder / "run", folder / "parts", options.tp, options.pp, to, options)
        merge(folder / "parts", folder / "again")
        convert(folder / "parts", folder / "back", "mcc")
        for a, b in (("whole", "again"), ("run", "back")):
            held = [files(folder / side, (".safetensors", ".distcp")) for side in (a, b)]
            assert held[0] == held[1] != {}
        assert_same_model(open_checkpoint(folder / "back"), open_checkpoint(folder / "run"))


def files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.suffix in suffixes}
