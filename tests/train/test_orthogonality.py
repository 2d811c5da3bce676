"""`--check-orthogonality`: the cosine and means of Optimus-CC's figure 11, by the formula and in a run."""

from __future__ import annotations

import json
import math

import pytest
import torch

from mcc.core.errors import UsageError
from mcc.train import metrics
from mcc.train.compress.orthogonality import Orthogonality, measured
from mcc.train.loop import train
from mcc.train.prepare import check_orthogonality
from tests.ranks import run_ranks
from tests.train.job import job_config, tokens
from tests.train.toy import toy_config


def test_the_formula_on_a_case():
    error, a, b = torch.tensor([[1.0, -2.0], [0.0, 2.0]]), torch.tensor([[3.0, 1.0], [4.0, 1.0]]), torch.ones(2, 2)
    # a - b = (2, 0, 3, 0); e . (a - b) = 2; |e| = 3; |a - b| = sqrt(13)
    found = measured(error, a, b)
    assert found == {
        "cosine": pytest.approx(2 / (3 * math.sqrt(13))),
        "mean_error": pytest.approx(1 / 4),
        "mean_difference": pytest.approx(5 / 4),
    }
    assert measured(error, a, a)["cosine"] is None


def _walk(lazy, sent):
    """Measurements of two steps of three micro-batches, of which `sent` (step, micro-batch) are compressed."""
    probe = Orthogonality(2, lazy)
    for step in range(2):
        for m in range(3):
            probe.received(m, torch.tensor([10.0 * step + m, 1.0]))
        for m in range(3):
            probe.sent(step, m, torch.tensor([1.0, float(m)]) if (step, m) in sent else None)
    return [
        (line["step"], line["microbatch"], line["next_step"], line["next_microbatch"], line["mean_difference"])
        for line in probe.take()
    ]


def test_an_error_is_measured_against_what_takes_it_along():
    everything = {(step, m) for step in range(2) for m in range(3)}
    along = [(1, 0, 1, 1, -0.5), (1, 1, 1, 2, -0.5), (1, 2, 2, 0, -4.0), (2, 0, 2, 1, -0.5), (2, 1, 2, 2, -0.5)]
    assert _walk(True, everything) == _walk(False, everything) == along
    epilogue = {(0, 2), (1, 2)}
    assert _walk(True, epilogue) == [(1, 2, 2, 2, -5.0)]  # waits
    assert _walk(False, epilogue) == [(1, 2, 2, 0, -4.0)]  # flushed by the next that is sent


COMPRESS = ("pp.backward=powersgd:rank=2,when=epilogue,feedback=lazy",)


def _recorded(config):
    """A run, with every error and activation at this rank's stage written down beside it."""
    seen = []
    sent, received = Orthogonality.sent, Orthogonality.received

    def watch_received(self, microbatch, activation):
        seen.append(("a", microbatch, activation.detach().clone()))
        received(self, microbatch, activation)

    def watch_sent(self, step, microbatch, error):
        seen.append(("e", microbatch, None if error is None else error.clone()))
        sent(self, step, microbatch, error)

    Orthogonality.received, Orthogonality.sent = watch_received, watch_sent
    train(config)
    return seen


def test_a_run_writes_them_down(tmp_path):
    """4 micro-batches over 2 stages, the first of which compresses nothing and the second its last gradient."""
    config = job_config(
        tokens(tmp_path), tmp_path / "run", 3, {"pp": 2}, COMPRESS, check_orthogonality=True, memory_interval=0
    )
    _, seen = run_ranks(_recorded, 2, config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "orthogonality.jsonl").read_text().splitlines()]
    errors = [error for what, _, error in seen if what == "e" and error is not None]
    activations = [x for what, m, x in seen if what == "a" and m == 3]
    assert len(errors) == len(activations) == 3
    assert [(line["step"], line["next_step"], line["microbatch"], line["boundary"]) for line in lines] == [
        (1, 2, 3, 0),
        (2, 3, 3, 0),
    ]
    for line, error, a, b in zip(lines, errors, activations, activations[1:], strict=False):
        difference = (a.double() - b.double()).reshape(-1)
        error = error.double().reshape(-1)
        cosine = float(error @ difference / error.norm() / difference.norm())
        assert line["cosine"] == pytest.approx(cosine, rel=1e-9) and abs(cosine) < 1
        assert line["mean_error"] == pytest.approx(float(error.mean()), rel=1e-9)
        assert line["mean_difference"] == pytest.approx(float(difference.mean()), rel=1e-9)
    (row,) = metrics.orthogonality(tmp_path / "run")
    assert row["steps"] == 2 and row["cosine"] == pytest.approx(sum(line["cosine"] for line in lines) / 2)
    assert row["cosine_size"] >= abs(row["cosine"])
    assert metrics.summary(tmp_path / "run")["orthogonality"] == [row]


def test_without_feedback_it_is_refused(tmp_path):
    def config(*compress, pp=2, save=str(tmp_path)):
        made = toy_config(1, pp, 1, compress, save=save)
        observe = type(made.observe)(check_orthogonality=True)
        return type(made)(**{**made.__dict__, "observe": observe})

    for bad in (config(), config("pp.backward=quantize"), config(*COMPRESS, pp=1)):
        with pytest.raises(UsageError, match=r"error feedback of pp\.backward, but there is none"):
            check_orthogonality(bad)
    with pytest.raises(UsageError, match="needs --save"):
        check_orthogonality(config(*COMPRESS, save=None))
    check_orthogonality(config(*COMPRESS))
