"""Networks of namespaces: what the interfaces carry is what mcc says it sends, and nothing outlives their owner."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcc.core.errors import MccError
from mcc.models.base.config import ModelConfig
from mcc.train.network import namespaces
from mcc.train.network.bench import measure
from mcc.train.network.config import NetworkConfig
from mcc.train.network.links import Network, Rate
from mcc.train.network.namespaces import Counters, require
from mcc.train.network.ranks import Training
from tests.train.job import job_config, tokens


def _missing() -> str | None:
    try:
        require()
    except MccError as error:
        return str(error)
    return None


_MISSING = _missing()
needs_root = pytest.mark.skipif(_MISSING is not None, reason=_MISSING or "")

# Ethernet 14, IPv4 20, TCP 32 with timestamps; of 1500 bytes the rest is payload.
HEADERS = 14 + 20 + 32
PAYLOAD = 1500 - 20 - 32
# gloo puts as much before a message and, where the message waits for its receiver, tells of it in another.
GLOO = 2 * 48

# Nothing is sent but activations, and large enough to stand out of the loss's and the norm's messages.
MODEL = ModelConfig(
    num_layers=2,
    hidden_size=128,
    num_attention_heads=4,
    seq_length=64,
    vocab_size=101,
    make_vocab_size_divisible_by=8,
    untie_embeddings_and_output_weights=True,
)
STEPS = (2, 8)


@needs_root
@pytest.mark.parametrize(
    "axis, sites",
    [
        ("pp", "forward backward"),
        pytest.param("dp", "grad", marks=pytest.mark.slow),
        pytest.param("tp", "forward backward", marks=pytest.mark.slow),
    ],
)
def test_the_packet_counters_see_the_bytes_that_are_reported(axis: str, sites: str, tmp_path: Path) -> None:
    compress = tuple(f"{axis}.{site}=quantize:bits=4" for site in sites.split())
    with Network(2) as network:
        short, _ = _counted(network, axis, (), STEPS[0], tmp_path / "short")
        dense, dense_bytes = _counted(network, axis, (), STEPS[1], tmp_path / "dense")
        small, small_bytes = _counted(network, axis, compress, STEPS[1], tmp_path / "small")
    steps = STEPS[1] - STEPS[0]
    assert sum(dense_bytes) > 3 * sum(small_bytes) or axis == "tp"  # with the vocabulary's sums, which stay dense
    for rank in range(2):
        # Start-up and end cost the same however many steps there are.
        seen = (dense[rank].sent_bytes - short[rank].sent_bytes) / steps
        frames = (dense[rank].sent_packets - short[rank].sent_packets) / steps
        reported, received = dense_bytes[rank], dense_bytes[1 - rank]
        acknowledgements = received / PAYLOAD * HEADERS
        assert reported <= seen <= reported * (1 + HEADERS / PAYLOAD) + acknowledgements + frames * (HEADERS + GLOO)
        # What compressing saves does not depend on messages that neither run counts.
        saved = (dense[rank].sent_bytes - small[rank].sent_bytes) / STEPS[1]
        told = reported - small_bytes[rank]
        both = told + received - small_bytes[1 - rank]
        assert told * 0.999 <= saved <= told + both * HEADERS / PAYLOAD


def _counted(
    network: Network, axis: str, compress: tuple[str, ...], steps: int, folder: Path
) -> tuple[list[Counters], list[float]]:
    """What each rank's interface sent in a run, and the bytes a step that mcc reports of each."""
    folder.mkdir()
    # Heartbeats come with time, not with steps.
    size = {"global_batch_size": 8, "micro_batch_size": 2, "heartbeat_timeout": 0.0}
    config = job_config(tokens(folder), folder / "run", steps, {axis: 2}, compress, **size)
    before = [network.counters(rank) for rank in range(2)]
    with Training(dataclasses.replace(config, model=MODEL), None, network, folder) as training:
        while not training.ended:
            training.look()
        lines = [line for line in training.lines() if "loss" in line]
    assert len(lines) == training.steps() == steps
    after = [network.counters(rank) for rank in range(2)]
    sent = [_difference(a, b) for a, b in zip(after, before, strict=True)]
    assert len({tuple(line["wire_bytes"].items()) for line in lines}) == 1
    wire = lines[-1]["wire_bytes"]
    # Activations go one way; in everything else both ranks have the same part.
    own = [wire.pop("pp.forward", 0), wire.pop("pp.backward", 0)]
    return sent, [mine + sum(wire.values()) / 2 for mine in own]


def _difference(after: Counters, before: Counters) -> Counters:
    return Counters(*(a - b for a, b in zip(dataclasses.astuple(after), dataclasses.astuple(before), strict=True)))


@needs_root
def test_links_keep_to_their_rate() -> None:
    with Network(2) as network:
        network.shape(Rate.parse("20mbit"), 50)
        assert 0 < network.goodput() < 20e6
        network.shape(Rate.parse("2mbit"), 50)
        assert 0 < network.goodput() < 2e6


@needs_root
def test_killed_owners_leave_neither_ranks_nor_namespaces(tmp_path: Path) -> None:
    program = "import sys; from tests.train.network.test_network import own; own(sys.argv[1])"
    words = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        networks = {_network(pid) for pid in pids}
        assert len(networks) == 2 and _network(os.getpid()) not in networks
        owner.send_signal(signal.SIGKILL)
    until = time.monotonic() + 30
    while any(_network(pid) in networks for pid in _processes()):
        assert time.monotonic() < until, "a process is still there"
        time.sleep(0.05)


def own(folder: str) -> None:
    """Start a long run, say who its ranks are once they train, and wait to be killed."""
    config = job_config(tokens(Path(folder)), Path(folder) / "run", 100_000, {"pp": 2})
    with Network(2) as network, Training(config, None, network, Path(folder)) as training:
        while training.steps() < 2:
            assert not training.ended
            training.look()
        print(*(process.pid for process in training.processes), flush=True)
        time.sleep(60)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _network(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return None


@needs_root
def test_runs_are_measured_at_every_rate(tmp_path: Path) -> None:
    config = NetworkConfig(rates=("50mbit",), steps=2, compress=("pp.forward=quantize:bits=4 pp.backward=none",))
    training = job_config(tokens(tmp_path), None, 1, eval_iters=1)
    training = dataclasses.replace(training, data=dataclasses.replace(training.data, split="1,1,0"))
    report = measure(config, training, tmp_path / "runs")
    assert report.steps == 8
    dense, small = report.runs
    # Steps so short may all be over before a link's rate is changed.
    assert [timing.rate for timing in small.timings] == ["unshaped", "50mbit"]
    timing, beside = small.timings[0], dense.timings[0]
    assert timing.steps >= 2 and timing.step_s and timing.fraction and timing.speed_up
    assert timing.wire_bytes["pp.backward"] == beside.wire_bytes["pp.backward"]
    assert timing.wire_bytes["pp.forward"] < beside.wire_bytes["pp.forward"] / 4
    assert small.loss_ratio is not None and 0.9 < small.loss_ratio < 1.1
    assert small.loss_ratio != 1.0


@needs_root
def test_a_rank_that_cannot_train_is_named(tmp_path: Path) -> None:
    config = job_config(tokens(tmp_path), tmp_path / "run", 4, {"pp": 2})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    with (
        Network(2) as network,
        Training(config, None, network, tmp_path) as training,
        pytest.raises(MccError, match="rank 0"),
    ):
        while not training.ended:
            training.look()


def test_who_may_not_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces.sys, "platform", "linux")
    monkeypatch.setattr(namespaces.shutil, "which", lambda program: None if program == "tc" else program)
    with pytest.raises(MccError, match="tc not found") as found:
        require()
    assert "root" in str(found.value.hint) and "iproute2" in str(found.value.hint)
    monkeypatch.setattr(namespaces.shutil, "which", lambda program: program)
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 1000)
    with pytest.raises(MccError, match="not root"):
        require()


@pytest.mark.parametrize(
    "values, wrong",
    [
        ({"rates": ("100mb",)}, "100mb"),
        ({"rates": ("1bit",)}, "1bit"),
        ({"rates": ("1gbit", "1000mbit")}, "twice"),
        ({"layout": "pp=1"}, "one rank"),
        ({"layout": "ep=2"}, "ep=2"),
        ({"steps": 0}, "--steps"),
        ({"latency_ms": 0.0}, "--latency"),
        ({"limit_s": 0.0}, "--limit"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, object], wrong: str) -> None:
    with pytest.raises(MccError, match=wrong):
        NetworkConfig(**values)  # type: ignore[arg-type]


def test_a_bucket_never_holds_less_than_a_frame() -> None:
    assert Rate.parse("100mbit").burst_bytes == 12_500
    assert Rate.parse("1mbit").burst_bytes > 1514
