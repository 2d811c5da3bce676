"""`--eval-codec`: scores through the codecs, which leave no trace in the training after them."""

from __future__ import annotations

import pytest
import torch

from mcc.train.prepare import without_effect
from mcc.train.sources.source import Evaluation, Source
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_batch, toy_config, train


class _Held(Source):
    """Eight samples that are not trained on."""

    seq_length = 16

    def __len__(self):
        return 8

    def take(self, samples):
        return {name: tensor[list(samples)] for name, tensor in toy_batch(99, 0, 1).items()}


HELD = Evaluation("heldout", _Held(), 8)


def _run(config):
    """Two steps, an evaluation if the configuration has one, two more; what is left of it all."""
    engine = make_engine(config)
    losses = train(engine, 2)
    score = engine.score(HELD) if config.run.eval_iters else {}
    losses += train(engine, 2)
    states = {key: codec.state_dict() for key, codec in engine.codecs().items()}
    parameters = {name: p.detach().clone() for name, p in engine.parameters.items()}
    return losses, score, parameters, states, engine.mesh.wire.take()


def _both_runs(*configs):
    return [_run(config) for config in configs]


# Codecs that remember (factors, errors, samples), draw, or neither; those at the sums begin to compress in mid-run.
REMEMBERING = (
    "pp.forward=powersgd:rank=2,feedback=on",
    "pp.backward=powersgd:rank=2,when=epilogue,feedback=on",
    "tp.forward=powersgd:rank=4,feedback=on,when=after:1",
    "tp.backward=quantize:bits=8,feedback=on",
)
DRAWING = ("pp.forward=delta:bits=4,store_bits=8", "tp.forward=randomk:ratio=0.5")


@pytest.mark.parametrize(
    ("compress", "more"), [(REMEMBERING, {}), (DRAWING, {"sequence_parallel": True})], ids=["remembering", "drawing"]
)
def test_evaluating_through_codecs_leaves_no_trace(compress, more):
    without = toy_config(2, 2, 1, compress, parallel=more, eval_iters=0)
    evaluating = toy_config(2, 2, 1, compress, parallel=more, eval_codec="both")
    ranks = run_ranks(_both_runs, 4, without, evaluating)
    for (losses, _, parameters, states, sent), (again, score, others, kept, counted) in ranks:
        assert losses == again and sent == counted
        assert all(torch.equal(value, others[name]) for name, value in parameters.items())
        assert states.keys() == kept.keys()
        for key, state in states.items():
            assert all(torch.equal(value, kept[key][name]) for name, value in state.items())
        assert list(score) == ["loss", "loss_codec"]
        assert score == ranks[0][1][1], "all ranks know it"
        assert abs(score["loss"] - score["loss_codec"]) > 1e-6


def _scores(config, hows):
    engine = make_engine(config)
    train(engine, 1)
    found = []
    for coded in hows:
        found.append(engine.evaluate(HELD, coded)["loss"])
    return found


def _all_scores(parallel, *runs):
    return [_scores(toy_config(1, 2, 1, (text,), parallel=parallel), hows) for text, hows in runs]


@pytest.mark.parametrize("parallel", [{}, {"schedule": "zbv", "vpp": 2}], ids=["1f1b", "zbv"])
def test_scores_are_those_of_the_codec(parallel):
    runs = [
        ("pp.forward=none", [False, True]),
        ("pp.forward=quantize:bits=8", [False, True, True]),
        ("pp.forward=quantize:bits=8,when=after:9", [False, True]),
    ]
    none, eight, late = run_ranks(_all_scores, 2, parallel, *runs)[0]
    assert none[0] == none[1]
    assert 0 < abs(eight[1] - eight[0]) < 1e-2 and eight[1] == eight[2]
    assert late[0] != late[1], "an evaluation through codecs waits for no step"


def test_without_codecs_forward_it_has_no_effect():
    config = toy_config(1, 2, 1, ("pp.backward=none",), eval_codec="both")
    assert without_effect(config) == ["--eval-codec both has no effect: no codec is at tp.forward, pp.forward, cp.kv"]
    assert not without_effect(toy_config(1, 2, 1, ("pp.forward=none",), eval_codec="on"))
