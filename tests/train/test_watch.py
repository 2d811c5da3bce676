"""What is told of a run: the fields of metrics.jsonl, the live line, TensorBoard, what the devices could do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mcc.core.errors import MccError, UsageError
from mcc.core.events import Silent
from mcc.models.base.config import ModelConfig
from mcc.train import metrics
from mcc.train.compress.wire import SITES
from mcc.train.config import ObserveConfig
from mcc.train.flops import flops_per_token, peak_flops
from mcc.train.live import Meter
from mcc.train.loop import train
from mcc.train.tensorboard import require_tensorboard
from tests.ranks import run_ranks
from tests.train.job import job_config, tokens


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("data"))


class Lines(Silent):
    """Keeps what the live line shows."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def task(self, label, total=None, unit=""):
        from contextlib import nullcontext

        return nullcontext(self)

    def advance(self, amount: float = 1.0) -> None:
        pass

    def describe(self, text: str) -> None:
        self.shown.append(text)


def _shown(config) -> list[str]:
    reporter = Lines()
    train(config, reporter=reporter)
    return reporter.shown


def test_fields_and_the_live_line(tmp_path, data):
    config = job_config(data, tmp_path / "run", 6, {"dp": 2}, log_interval=2, memory_interval=4)
    shown, other = run_ranks(_shown, 2, config)
    assert len(shown) == 3 and other == []
    assert all(part in shown[-1] for part in ("loss ", "tokens/s", "dp.grad ", "B/s", "0:00 left"))
    assert "MFU" not in shown[-1]  # nobody knows what this CPU could do
    lines = metrics.read(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert line.keys() >= {"step", "loss", "lr", "grad_norm", "tokens", "step_time_s", "wire_bytes"}
        assert line["tokens_per_s"] == pytest.approx(4 * 16 / line["step_time_s"])
        assert line["tokens"] == line["step"] * 4 * 16
    assert ["memory_bytes" in line for line in lines] == [True, True, False]
    assert len(lines[0]["memory_bytes"]) == 2
    assert all(10_000_000 < used < 2**40 for used in lines[0]["memory_bytes"])


def test_every_site_has_its_bytes(tmp_path, data):
    config = job_config(data, tmp_path / "run", 1, {"tp": 2, "cp": 2, "sequence_parallel": True})
    run_ranks(_shown, 4, config)
    sent = metrics.read(tmp_path / "run")[0]["wire_bytes"]
    assert sent.keys() == set(SITES) - {"pp.forward", "pp.backward", "zero.grads", "zero.weights"}
    assert all(sent.values())


def test_flops_of_known_models() -> None:
    """6 x weights and attention: GPT-2 124M by hand, and a peak makes it a share."""
    gpt2 = ModelConfig(num_layers=12, hidden_size=768, num_attention_heads=12, seq_length=1024, vocab_size=50257)
    matrices = 12 * 12 * 768**2 + 50257 * 768
    assert flops_per_token(gpt2) == 6 * matrices + 12 * 12 * 768 * 1024
    assert peak_flops("NVIDIA A100-SXM4-80GB", torch.bfloat16) == 312e12
    assert peak_flops("NVIDIA L40S", torch.float16) == 362.05e12
    assert peak_flops("NVIDIA L40", torch.float16) is None  # not the L4
    meter = Meter(total=10, flops_per_token=1e9, peak=4e12)
    meter.update(1.0)
    assert "MFU 50.0%" in meter.line(5, 1.0, 2000.0, {})
    assert "0:05 left" in meter.line(5, 1.0, 2000.0, {})


def _full(run: Path) -> str:
    file = metrics.MetricsFile(run, 0)
    file.path = Path("/dev/full")
    with pytest.raises(MccError) as caught:
        file.append({"step": 1})
    return caught.value.what


def test_a_full_disk_is_told_in_one_line(tmp_path):
    assert _full(tmp_path) == "cannot write /dev/full: No space left on device"


def test_tensorboard_has_every_number(tmp_path, data):
    pytest.importorskip("tensorboard", reason="mcc[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = tmp_path / "board"
    config = job_config(data, tmp_path / "run", 3, {"dp": 2}, tensorboard_dir=str(board))
    run_ranks(_shown, 2, config)
    found = EventAccumulator(str(board))
    found.Reload()
    losses = [line["loss"] for line in metrics.read(tmp_path / "run")]
    assert [event.step for event in found.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in found.Scalars("loss")] == pytest.approx(losses)
    assert set(found.Tags()["scalars"]) >= {"lr", "grad_norm", "tokens_per_s", "wire_bytes/dp.grad", "memory_bytes/1"}


def test_tensorboard_that_is_missing_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("mcc.train.tensorboard.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package tensorboard") as caught:
        require_tensorboard()
    assert caught.value.hint == "pip install 'mcc[tensorboard]'"


@pytest.mark.parametrize("steps", ["", "0-3", "5-2", "a-b", "3-", "-3"])
def test_steps_to_trace_are_first_and_last(steps):
    with pytest.raises(UsageError, match="is not FIRST-LAST"):
        ObserveConfig(trace_steps=steps)
    assert ObserveConfig(trace_steps="4").traced() == range(4, 5)
