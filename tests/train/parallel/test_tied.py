"""The tied embedding's gradient, fused or in two steps, compressed or not: the same update as one process makes."""

from __future__ import annotations

import pytest
import torch

from mcc.train.parallel.gradients import TIED
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_config, train, whole_parameters

STEPS = 4


def _run(configs):
    """Of every configuration: losses, this rank's copy, the whole parameters, the bytes sent."""
    found = []
    for config in configs:
        torch.manual_seed(0)
        engine = make_engine(config)
        losses = train(engine, STEPS)
        sent = engine.mesh.wire.take().get("embedding", 0)
        found.append((losses, engine.parameters[TIED].detach().clone(), whole_parameters(engine), sent))
    return found


def _config(sync, *compress, **parallel):
    return toy_config(1, 2, 2, compress, parallel={"embedding_sync": sync, **parallel})


def test_both_ways_equal_one_process_and_the_identity_is_dense():
    configs = [_config(sync, *codec) for sync in ("fused", "separate") for codec in ((), ("embedding=none",))]
    (alone,), *_ = run_ranks(_run, 1, [toy_config()])
    ranks = run_ranks(_run, 4, configs)
    size = ranks[0][0][1].nbytes
    for fused, fused_none, separate, separate_none in ranks:
        for ours, identity in ((fused, fused_none), (separate, separate_none)):
            assert ours[0] == identity[0] and torch.equal(ours[1], identity[1])
            assert ours[0] == pytest.approx(alone[0], abs=1e-5)
            for name, value in alone[2].items():
                assert (ours[2][name] - value).norm() / value.norm() < 1e-4, name
        # All-reduces over four ranks, or over two and two.
        assert fused[3] == STEPS * 2 * 3 / 4 * size
        assert separate[3] == STEPS * 2 * size


@pytest.mark.parametrize("codec", ["quantize:bits=4,feedback=on", "powersgd:rank=8,feedback=on,warmup=1"])
def test_compressed_copies_never_part(codec):
    configs = [_config("fused"), *(_config(sync, f"embedding={codec}") for sync in ("fused", "separate"))]
    configs.append(_config("fused", f"embedding={codec}", zero=1))
    ranks = run_ranks(_run, 4, configs)
    for i in (1, 2, 3):
        for found in ranks:
            assert torch.equal(found[i][1], ranks[0][i][1])
            assert found[i][0] == pytest.approx(found[0][0], abs=0.05)
        assert ranks[0][i][3] < (0.6 if "powersgd" in codec else 0.35) * ranks[0][0][3] * (4 / 3 if i == 2 else 1)
