"""Every family on two tensor-parallel ranks, with and without sequence parallelism, equals itself on one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.extras import Extras, Randomness
from mcc.models.base.family import families
from mcc.models.base.forms import shard
from mcc.models.base.init import initialize
from mcc.models.base.loss import cross_entropy
from mcc.models.base.transformer import Stage
from mcc.train.parallel.mesh import build_mesh
from mcc.train.parallel.tensor import Clock, ParallelAxes
from tests.models.pairs import inputs
from tests.ranks import run_ranks

SIZES = ModelConfig(
    num_layers=2, hidden_size=24, num_attention_heads=6, seq_length=12, vocab_size=61, make_vocab_size_divisible_by=8
)
MODELS = {
    "gpt2": SIZES,
    "llama": dataclasses.replace(SIZES, family="llama", num_query_groups=2, ffn_hidden_size=40),
    "llama, untied": dataclasses.replace(SIZES, family="llama", untie_embeddings_and_output_weights=True),
    "qwen2": dataclasses.replace(SIZES, family="qwen2", num_query_groups=2),
    "opt": dataclasses.replace(SIZES, family="opt"),
    "gpt-neox": dataclasses.replace(SIZES, family="gpt-neox", rotary_percent=0.5),
    "roberta, lm": dataclasses.replace(SIZES, family="roberta", head="lm", num_tokentypes=1),
    **{
        f"{family}, {head}": dataclasses.replace(SIZES, family=family, head=head, num_labels=3)
        for family in ("bert", "megatron-bert")
        for head in ("pretraining", "classification")
    },
}


def loss_of(stage: Stage, axes: Axes) -> Tensor:
    """A loss in which every output has a share of its own."""
    config = stage.config
    tokens, extras = inputs(config)
    found = stage(tokens, extras)
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros(())
    for output in found if isinstance(found, tuple) else (found,):
        if output.dim() == 3:
            targets = torch.randint(0, config.vocab_size, tokens.shape, generator=generator)
            weights = torch.rand(tokens.shape, generator=generator)
            total = total + (cross_entropy(output, targets, axes, config.vocab_size) * weights).mean()
        else:
            total = total + (output * torch.randn(output.shape, generator=generator)).sum()
    return total


def gradients(config: ModelConfig, axes: Axes) -> tuple[float, dict[str, Tensor]]:
    """(loss, gradients of this rank's parameters)."""
    family = families.get(config.family)()
    with torch.device("meta"):
        stage = family.build(config, axes, range(config.num_layers))
    initialize(stage, family, seed=3)
    with torch.no_grad():  # so that norms, biases and what is multiplied by them all matter
        for name, parameter in stage.named_parameters():
            if family.row(name).tp_dim is None:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    loss = loss_of(stage, axes)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in stage.named_parameters()}


def two_ranks(sequence: bool) -> list[tuple[float, dict[str, Tensor]]]:
    axes = ParallelAxes(build_mesh(2, 1, 1), {}, Clock(), sequence=sequence)
    found = []
    for config in MODELS.values():
        family = families.get(config.family)()
        loss, grads = gradients(config, axes)
        for name, grad in grads.items():
            row = family.row(name)
            if sequence and row.tp_dim is None and row.tokens == "own":
                axes.sum_(grad)
        found.append((loss, grads))
    return found


@pytest.mark.parametrize("sequence", [False, True])
def test_two_ranks_equal_one(sequence: bool) -> None:
    results = run_ranks(two_ranks, 2, sequence)
    for at, (name, config) in enumerate(MODELS.items()):
        family = families.get(config.family)()
        whole_loss, whole = gradients(config, Axes())
        for rank in range(2):
            loss, found = results[rank][at]
            assert loss == pytest.approx(whole_loss, abs=1e-5), name
            for key, expected in whole.items():
                row = family.row(key)
                mine = shard(expected, row.tp_dim, rank, 2)
                error = float((found[key] - mine).abs().max())
                assert error < 1e-5 * max(1.0, float(expected.abs().max())), f"{name}: {key}: {error}"


def dropped(sequence: bool) -> list[Tensor]:
    """The hidden states of one layer with dropout, on this rank, of two steps' draws and the first's again."""
    config = dataclasses.replace(SIZES, num_layers=1, hidden_dropout=0.5, attention_dropout=0.5)
    axes = ParallelAxes(build_mesh(2, 1, 1), {}, Clock(), sequence=sequence)
    family = families.get("gpt2")()
    stage = family.build(config, axes, range(1), first=True, last=False)
    initialize(stage, family, seed=3)
    tokens, _ = inputs(config)
    return [stage(tokens, Extras(random=Randomness(1, step, 0))).detach() for step in (0, 1, 0)]


def test_dropout_is_the_same_where_hidden_states_are() -> None:
    a, b = run_ranks(dropped, 2, False)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert torch.equal(a[0], a[2])
    assert not torch.equal(a[0], a[1])
    a, b = run_ranks(dropped, 2, True)
    assert a[0].shape == (3, 6, 24)
    assert not torch.equal(a[0] == 0, b[0] == 0)
