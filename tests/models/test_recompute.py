"""Recomputation changes nothing but memory and time, with dropout too."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.extras import Extras, Randomness
from mcc.models.base.family import families
from mcc.models.base.init import initialize
from mcc.models.base.transformer import Recompute, Stage
from tests.models.live import LiveBytes

SIZES = ModelConfig(
    num_layers=6, hidden_size=32, num_attention_heads=4, seq_length=64, vocab_size=61,
    hidden_dropout=0.2, attention_dropout=0.2,
)  # fmt: skip


def built(config: ModelConfig) -> Stage:
    family = families.get(config.family)()
    stage = family.build(config, Axes(), range(config.num_layers), last=False)
    initialize(stage, family, seed=1)
    return stage


def run(stage: Stage, recompute: Recompute, random: Randomness | None) -> tuple[Tensor, list[Tensor]]:
    stage.recompute = recompute
    stage.zero_grad()
    tokens = torch.randint(0, 61, (2, stage.config.seq_length), generator=torch.Generator().manual_seed(1))
    out = stage(tokens, Extras(random=random))
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    return out.detach(), [p.grad.clone() for p in stage.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", families.names())
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_the_same_bits(family: str, recompute: Recompute) -> None:
    stage = built(dataclasses.replace(SIZES, family=family))
    random = Randomness(seed=1, step=2, microbatch=3)
    out, grads = run(stage, "none", random)
    again, regrads = run(stage, recompute, random)
    assert torch.equal(out, again)
    assert all(torch.equal(a, b) for a, b in zip(grads, regrads, strict=True))
    other, _ = run(stage, recompute, Randomness(seed=1, step=2, microbatch=4))
    assert not torch.equal(out, other)


def test_memory_kept_for_the_backward_pass() -> None:
    """Whole layers keep a layer's input each; selectively the weights of attention [B, heads, T, T] are not kept."""
    stage = built(SIZES)
    kept: dict[str, int] = {}
    for recompute in ("none", "selective", "full"):
        stage.recompute = recompute  # type: ignore[assignment]
        with LiveBytes() as live:
            # Dropout needs the weights themselves: without it torch's fused attention would not keep them anyway.
            out = stage(torch.zeros(4, 64, dtype=torch.long), Extras(random=Randomness(1, 1, 1)))
            kept[recompute] = live.now
        del out
    hidden, weights = 4 * 4 * 64 * 32, 4 * 4 * 4 * 64 * 64
    assert kept["full"] <= (SIZES.num_layers + 2) * hidden
    assert kept["none"] - kept["selective"] >= SIZES.num_layers * weights


def test_dropout_draws_by_place() -> None:
    """Elements drop out at the rate that is asked for, at other places in each layer, and not without `random`."""
    from mcc.models.base.dropout import dropout

    random = Randomness(seed=1, step=1, microbatch=1)
    x = torch.ones(1000, 100)
    a = dropout(x, 0.3, Extras(random=random), "a", 0)
    assert float((a == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert a.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert torch.equal(a, dropout(x, 0.3, Extras(random=random), "a", 0))
    for other in (dropout(x, 0.3, Extras(random=random), "b", 0), dropout(x, 0.3, Extras(random=random), "a", 1)):
        # Independent draws agree at p^2 + (1-p)^2 of all places.
        assert float((a == other).float().mean()) == pytest.approx(0.58, abs=0.01)
    assert dropout(x, 0.3, Extras(), "a", 0) is x
    assert dropout(x, 0.0, Extras(random=random), "a", 0) is x


def test_evaluation_has_no_dropout() -> None:
    stage = built(SIZES)
    calm = built(dataclasses.replace(SIZES, hidden_dropout=0.0, attention_dropout=0.0))
    tokens = torch.zeros(2, 64, dtype=torch.long)
    assert torch.equal(stage(tokens), calm(tokens))
    random = Extras(random=Randomness(1, 1, 1))
    assert not torch.equal(stage(tokens, random), calm(tokens, random))
