"""A model whose tokens are dealt over context- and sequence-parallel ranks is the model on one rank, gradients too."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from mcc.core.errors import UsageError
from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.extras import Extras
from mcc.models.base.family import families
from mcc.models.base.forms import shard
from mcc.models.base.init import initialize
from mcc.models.base.loss import cross_entropy
from mcc.train.batch import on_positions
from mcc.train.compress.spec import parse_all
from mcc.train.parallel.gradients import sequence_parameters, sync_sequence
from mcc.train.parallel.mesh import build_mesh
from mcc.train.parallel.tensor import Clock, ParallelAxes
from mcc.train.parallel.tokens import Dealt, require_cp
from tests.ranks import run_ranks
from tests.train.toy import toy_config, trained

B, T, V = 2, 16, 32
SIZES: dict[str, Any] = {
    "num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "seq_length": T, "vocab_size": V - 3,
    "make_vocab_size_divisible_by": 4,
}  # fmt: skip
MODELS = {
    "gpt2": ModelConfig(family="gpt2", **SIZES),
    "llama": ModelConfig(family="llama", num_query_groups=2, **SIZES),
    "bert": ModelConfig(family="bert", **SIZES),
}


def _batch(model: ModelConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(model.vocab_size, (B, T), generator=generator)
    weights = torch.rand(B, T, generator=generator, dtype=torch.float64)
    if model.family != "bert":
        return {"tokens": tokens, "targets": tokens.roll(-1, 1), "weights": weights}
    weights[:, :9] = 0  # the first rank has no target at all
    padding = torch.ones(B, T, dtype=torch.bool)
    padding[0, 11:] = False  # the last ranks see no key of the first sample
    types = (torch.arange(T) > 5).long().expand(B, T)
    targets = tokens.flip(1)
    return {"tokens": tokens, "targets": targets, "weights": weights, "padding": padding, "token_types": types}


def _run(model: ModelConfig, axes: Axes, batch: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    """The weighted sum of losses in float64, and its gradients as this rank has them."""
    family = families.get(model.family)()
    module = family.build(model, axes, range(model.num_layers))
    initialize(module, family, 11)
    module.double()
    extras = Extras(padding=batch.get("padding"), token_types=batch.get("token_types"))
    logits = module(batch["tokens"], extras)
    losses = cross_entropy(logits, batch["targets"], axes, model.vocab_size)
    loss = (losses * batch["weights"]).sum()
    loss.backward()
    return float(loss), {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def _dealt(name: str, tp: int, cp: int, sequence: bool, compress: tuple[str, ...] = ()) -> Any:
    """(loss over all ranks, this rank's gradients summed over the ranks, the reference's slices, bytes sent)."""
    model = MODELS[name]
    mesh = build_mesh(tp, 1, 1, cp)
    family = families.get(name)()
    axes = ParallelAxes(mesh, parse_all(compress), Clock(), sequence=sequence, zigzag=family.blueprint.causal)
    loss, grads = _run(model, axes, on_positions(_batch(model), axes.positions(T // cp, torch.device("cpu"))))
    sent = mesh.wire.take()
    parameters = {}
    for key, grad in grads.items():
        parameters[key] = torch.nn.Parameter(torch.empty_like(grad))
        parameters[key].grad = grad
    if sequence:
        sync_sequence(parameters, sequence_parameters(grads, family), mesh.collective("tp", "tp.tokens"))
    total = torch.tensor(loss, dtype=torch.float64)
    for tensor in (total, *grads.values()):
        dist.all_reduce(tensor, group=mesh.replicas)
    wanted_loss, wanted = _run(model, Axes(), _batch(model))
    whole_vocab = model.padded_vocab_size(tp) == model.padded_vocab_size(1)
    assert whole_vocab  # so that the vocabulary's shards are slices of one process's
    slices = {key: shard(grad, family.row(key).tp_dim, mesh.tp_rank, tp) for key, grad in wanted.items()}
    return float(total), wanted_loss, grads, slices, sent


def _check(result: Any, tolerance: float = 1e-12) -> None:
    loss, wanted_loss, grads, wanted, _ = result
    assert loss == pytest.approx(wanted_loss, rel=tolerance)
    assert grads.keys() == wanted.keys()
    for name, grad in grads.items():
        error = (grad - wanted[name]).abs().max() / max(1e-2, wanted[name].abs().max())
        assert error < tolerance, f"{name}: {error}"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("tp", "cp", "sequence"), [(1, 2, False), (1, 4, False), (2, 2, True), (2, 1, True)])
def test_layout_equals_one_process(name, tp, cp, sequence):
    for result in run_ranks(_dealt, tp * cp, name, tp, cp, sequence):
        _check(result)


def test_context_and_tensor_parallel():
    for result in run_ranks(_dealt, 4, "llama", 2, 2, False):
        _check(result)


def _compiled() -> None:
    """Compiled layers give the same loss and gradients; `eager` traces without generating code."""
    model, mesh = MODELS["gpt2"], build_mesh(2, 1, 1, 2)
    axes = ParallelAxes(mesh, {}, Clock(), sequence=True)
    axes.leave_out_of_graphs()
    module = families.get("gpt2")().build(model, axes, range(model.num_layers))
    initialize(module, families.get("gpt2")(), 11)
    tokens = on_positions(_batch(model), axes.positions(T // 2, torch.device("cpu")))["tokens"]
    found = []
    for compiled in (False, True):
        for layer in module.layers.values() if compiled else ():
            layer.compile(backend="eager")
        module.zero_grad()
        logits = module(tokens)
        logits.square().sum().backward()
        found.append([logits.detach(), *(p.grad.clone() for p in module.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_compiled_layers():
    run_ranks(_compiled, 4)


def test_sequence_parallel_sends_what_tensor_parallel_sends():
    """An all-gather and a reduce-scatter for an all-reduce, forward and backward, at every site of a layer."""
    plain, sequence = (run_ranks(_dealt, 4, "gpt2", 4, 1, s)[0][-1] for s in (False, True))
    assert sequence["tp.forward"] == plain["tp.forward"]
    assert sequence["tp.backward"] == plain["tp.backward"]


def test_identity_codec_changes_no_bit_of_sequence_parallelism():
    codecs = ("tp.forward=none", "tp.backward=none")
    dense, coded = (run_ranks(_dealt, 4, "gpt2", 4, 1, True, c) for c in ((), codecs))
    for a, b in zip(dense, coded, strict=True):
        assert a[0] == b[0]
        assert all(torch.equal(a[2][name], b[2][name]) for name in a[2])
        assert a[-1] == b[-1]


def test_sequence_parallelism_compresses_what_it_sends():
    """8 bits for float64: an eighth of the bytes and a scale a token, and a loss off by less than a hundredth."""
    codecs = ("tp.forward=quantize:bits=8", "tp.backward=quantize:bits=8,feedback=on")
    dense, coded = (run_ranks(_dealt, 4, "gpt2", 4, 1, True, c)[0] for c in ((), codecs))
    for site in ("tp.forward", "tp.backward"):
        assert coded[-1][site] < dense[-1][site] / 7
    assert coded[0] != coded[1]
    assert coded[0] == pytest.approx(coded[1], rel=1e-2)


@pytest.mark.parametrize("zigzag", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_token_is_dealt_once(size, zigzag):
    whole = torch.arange(24).view(1, 24)
    shares = [Dealt(size, rank, zigzag) for rank in range(size)]
    parts = [dealt.own(whole) for dealt in shares]
    assert torch.equal(torch.cat(parts, 1).sort().values, whole)
    for dealt, part in zip(shares, parts, strict=True):
        assert torch.equal(part[0], dealt.positions(24 // size))


def test_uneven_sequences_are_refused_with_the_numbers():
    require_cp(24, 4, zigzag=True)
    require_cp(12, 4, zigzag=False)
    require_cp(13, 1, zigzag=True)
    with pytest.raises(UsageError, match=r"seq_length = 12 is not a multiple of 2\*cp = 2\*4 = 8"):
        require_cp(12, 4, zigzag=True)
    with pytest.raises(UsageError, match=r"seq_length = 10 is not a multiple of cp = 4"):
        require_cp(10, 4, zigzag=False)
    with pytest.raises(UsageError, match=r"10/1 = 10 tokens are not a multiple of tp = 4"):
        require_cp(10, 1, zigzag=True, parts=4)


def test_recomputation_draws_the_same_dropout():
    """Four ranks, dropout everywhere, the ring run again backward: the same bits whatever is recomputed."""
    model = dataclasses.replace(MODELS["gpt2"], hidden_dropout=0.1, attention_dropout=0.1)
    found = []
    for recompute in ("none", "selective", "full"):
        parallel = {"cp": 2, "sequence_parallel": True, "recompute_granularity": recompute}
        config = toy_config(tp=2, parallel=parallel, model=model, precision="bf16", micro_batch_size=4)
        found.append(run_ranks(trained, 4, config, 2)[0])
    losses, parameters = found[0]
    for other_losses, other in found[1:]:
        assert other_losses == losses
        assert all(torch.equal(other[name], parameters[name]) for name in parameters)
