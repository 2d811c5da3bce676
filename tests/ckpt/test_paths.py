"""Random models through random formats and layouts: every way gives the same tensors."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.models.base.config import ModelConfig
from tests.ckpt.models import InMemory, assert_same_tensors

LAYERS, HEADS = 4, 4

WRITTEN = [name for name, plugin in formats.all() if not plugin.read_only]

DOCUMENT = Path(__file__).parents[2] / "docs" / "checkpoints.md"


@pytest.mark.parametrize("target", WRITTEN)
@pytest.mark.parametrize("origin", WRITTEN)
def test_every_format_to_every_format(tmp_path: Path, origin: str, target: str) -> None:
    """Each cell of the table in docs/checkpoints.md."""
    model = InMemory()
    formats.get(origin)().write(model, tmp_path / "a")
    formats.get(target)().write(open_checkpoint(tmp_path / "a"), tmp_path / "b")
    assert_same_tensors(open_checkpoint(tmp_path / "b", target), model)


def test_the_document_has_every_format() -> None:
    rows = [line.split("|")[1].strip() for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if "|" in line]
    for name in formats.names():
        assert f"`{name}`" in rows, f"docs/checkpoints.md lacks a row for {name}"


@st.composite
def models(draw: Any) -> InMemory:
    head_dim = draw(st.sampled_from([1, 3, 4]))
    config = ModelConfig(
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        hidden_size=HEADS * head_dim,
        ffn_hidden_size=draw(st.sampled_from([None, 4, 12])),
        seq_length=draw(st.integers(1, 9)),
        vocab_size=draw(st.integers(1, 70)),
        make_vocab_size_divisible_by=draw(st.sampled_from([1, 3, 8, 128])),
    )
    return InMemory(config, dtype=draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])))


@st.composite
def steps(draw: Any) -> tuple[str, WriteOptions]:
    name = draw(st.sampled_from(WRITTEN))
    shard_bytes = draw(st.sampled_from([1, 1000, 10**9]))
    if name not in ("mcc", "megatron"):
        return name, WriteOptions(shard_bytes=shard_bytes)
    tp, pp = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 4]))
    return name, WriteOptions(tp=tp, pp=pp, megatron_version=draw(st.sampled_from([0, 1, 2, 3])))


@settings(max_examples=40, deadline=None)
@given(model=models(), path=st.lists(steps(), min_size=1, max_size=4))
def test_all_paths_commute(model: InMemory, path: list[tuple[str, WriteOptions]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source: Any = model
        for number, (name, options) in enumerate(path):
            out = Path(folder) / str(number)
            formats.get(name)().write(source, out, options)
            source = open_checkpoint(out)
            assert type(source) is type(open_checkpoint(out, name))
        assert_same_tensors(source, model)
        kept = ("num_layers", "hidden_size", "num_attention_heads", "ffn_size", "seq_length", "vocab_size")
        for name in kept:
            assert getattr(source.meta.config, name) == getattr(model.meta.config, name), name
