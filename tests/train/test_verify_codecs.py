"""`--verify-codecs`: it changes nothing of a sound run, and names where two ends have parted."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mcc.train.compress.codecs.delta import Delta
from mcc.train.compress.codecs.quantize import Quantize
from tests.ranks import run_ranks
from tests.train.compress.test_delta import recurring
from tests.train.test_identity import COMPRESSED
from tests.train.toy import make_engine, toy_config, train


def checked(config, on=True):
    return dataclasses.replace(config, safety=dataclasses.replace(config.safety, verify_codecs=on))


def ranks(config):
    p = config.parallel
    return p.tp * p.pp * p.dp * p.cp


def _trained(config):
    engine = make_engine(config)
    return train(engine, 4), engine.mesh.wire.take()


@pytest.mark.parametrize(
    ("layout", "compress", "parallel"),
    [
        ((2, 2, 1), COMPRESSED, {"sequence_parallel": True}),
        ((1, 1, 1), ("cp.kv=quantize:bits=4",), {"cp": 2}),
    ],
)
def test_a_sound_run_is_as_without_it(layout, compress, parallel):
    """The same losses and, since its headers do not count, the same bytes."""
    config = toy_config(*layout, compress, parallel=parallel)
    plain, verified = (run_ranks(_trained, ranks(config), checked(config, on)) for on in (False, True))
    assert plain == verified


def _parted(config, harm):
    """What becomes of a run in which one rank's codec forgets, or decodes otherwise."""
    engine = make_engine(config)
    recurring(engine, 2)
    if harm == "cache" and engine.mesh.pp_rank == 1:
        (codec,) = (codec for codec in engine.pipeline.codecs().values() if isinstance(codec, Delta))
        state = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
        state["rows0"][3, 8] ^= 1
        codec.load_state_dict(state)
    if harm == "decode" and torch.distributed.get_rank() == 1:
        inner = Quantize.decode
        Quantize.decode = lambda self, payload, context: inner(self, payload, context) * 1.001
    recurring(engine, 2)


def _failure(config, harm) -> str:
    with pytest.raises(pytest.fail.Exception) as caught:
        run_ranks(_parted, ranks(config), config, harm)
    return str(caught.value)


def test_a_cache_that_differs_in_a_bit_is_named():
    found = _failure(checked(toy_config(1, 2, 1, ("pp.forward=delta:bits=4",))), "cache")
    assert "rank 1 failed" in found
    assert (
        "--verify-codecs: pp.forward, boundary 0, step 3, micro-batch 3: from stage 0 to stage 1, pp ranks 0 to 1: "
        "the payload decodes to other bits"
    ) in found


@pytest.mark.parametrize(
    ("layout", "text", "parallel", "words"),
    [
        ((2, 1, 1), "tp.forward=quantize", {}, "tp.forward, step 3: ranks [1] of the group got other bits"),
        (
            *((2, 1, 1), "tp.forward=quantize", {"sequence_parallel": True}),
            "tp.forward, step 3: ranks [1] of the group got other bits",
        ),
        ((1, 1, 4), "dp.grad=quantize", {}, "of the group sent decodes to other bits on rank"),
        ((1, 1, 2), "dp.grad=quantize", {}, "dp.grad, step 3: ranks [1] of the group got other bits"),
        ((1, 1, 1), "cp.kv=quantize", {"cp": 2}, "cp.kv, step 3: ranks [1] of the group got other bits"),
    ],
)
def test_ranks_that_decode_otherwise_are_named(layout, text, parallel, words):
    config = checked(toy_config(*layout, (text,), parallel=parallel))
    assert words in _failure(config, "decode")
