"""One timeline of all ranks: what is in it, whose clock it goes by, and that it costs nothing when it is off."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest
import torch.distributed as dist

from mcc.train import trace
from mcc.train.loop import train
from mcc.train.trace import KINDS, Recorder, seconds
from tests.ranks import run_ranks
from tests.train.job import job_config, tokens
from tests.train.test_identity import COMPRESSED


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("data"))


def events(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


def spans(path: Path) -> list[dict]:
    return [event for event in events(path) if event["ph"] == "X"]


def test_off_it_keeps_nothing_and_costs_less_than_two_microseconds() -> None:
    recorder = Recorder()
    began = time.process_time()
    for _ in range(20_000):
        with recorder.span("forward", microbatch=3):
            pass
    assert time.process_time() - began < 20_000 * 2e-6
    assert recorder.events == []


def test_a_span_takes_the_microbatch_around_it() -> None:
    recorder = Recorder()
    recorder.on, recorder.step = True, 7
    with recorder.span("forward", microbatch=3), recorder.span("reduce", what="tp.forward"):
        pass
    with recorder.span("optimizer"):
        pass
    reduce, forward, optimizer = recorder.events
    assert (reduce.kind, reduce.what, reduce.microbatch, reduce.step) == ("reduce", "tp.forward", 3, 7)
    assert forward.start <= reduce.start <= reduce.end <= forward.end
    assert optimizer.microbatch is None


def _run(config) -> int:
    return train(config)


LAYOUTS = {
    "one": (1, {}, ()),
    "pipeline": (2, {"pp": 2, "schedule": "gpipe"}, ("pp.forward=quantize:bits=8", "pp.backward=quantize:bits=8")),
    "all": (4, {"pp": 2, "tp": 2}, COMPRESSED),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_microbatch_of_every_rank_is_there(tmp_path, data, name):
    world, parallel, compress = LAYOUTS[name]
    path = tmp_path / "traces" / "t.json"
    config = job_config(data, None, 5, parallel, compress, trace=str(path), trace_steps="2-3")
    assert run_ranks(_run, world, config) == [5] * world
    assert [f.name for f in path.parent.iterdir()] == ["t.json"]
    found = spans(path)
    assert {event["pid"] for event in found} == set(range(world))
    microbatches = {(rank, step, m) for rank in range(world) for step in (2, 3) for m in range(4)}
    for kind in ("forward", "backward"):
        seen = Counter((e["pid"], e["args"]["step"], e["args"]["microbatch"]) for e in found if e["cat"] == kind)
        assert seen == Counter(microbatches)
    kinds = {event["cat"] for event in found}
    expected = {"step", "data", "forward", "backward", "optimizer", "wait", "log"}
    if name != "one":
        expected |= {"send", "encode", "decode", "reduce"}
    assert kinds >= expected
    assert kinds <= set(KINDS)
    for event in found:
        assert event["ts"] >= 0 and event["dur"] >= 0
        assert event["tid"] == KINDS.index(event["cat"])
    coded = {e["args"]["microbatch"] for e in found if e["name"] == "encode pp.forward"}
    assert coded == (set() if name == "one" else set(range(4)))
    _nested(found)
    if name == "pipeline":
        for rank, site in ((0, "pp.forward"), (1, "pp.backward")):
            _under_way(found, rank, site)


def _under_way(found: list[dict], rank: int, site: str) -> None:
    """A payload is sent while the next micro-batches are computed and encoded: nobody waits for it to have left."""
    mine = sorted((e for e in found if e["pid"] == rank and e["args"]["step"] == 2), key=lambda e: e["ts"])
    encoded = [e for e in mine if e["name"] == f"encode {site}"]
    assert [e["args"]["microbatch"] for e in encoded] == [0, 1, 2, 3]
    between = [e["cat"] for e in mine if encoded[0]["ts"] < e["ts"] < encoded[-1]["ts"]]
    computed = "forward" if site == "pp.forward" else "backward"
    assert between == ["send", computed, "encode", "send", computed, "encode", "send", computed]


def _nested(found: list[dict]) -> None:
    """The spans of one thread of one rank never overlap but by lying within each other."""
    threads: dict[tuple[int, int], list[dict]] = {}
    for event in found:
        threads.setdefault((event["pid"], event["tid"]), []).append(event)
    for members in threads.values():
        ends: list[float] = []
        for event in sorted(members, key=lambda e: (e["ts"], -e["dur"])):
            while ends and ends[-1] <= event["ts"] + 1e-3:
                ends.pop()
            assert not ends or event["ts"] + event["dur"] <= ends[-1] + 1e-3
            ends.append(event["ts"] + event["dur"])


def test_the_engines_own_time_is_what_no_span_covers(tmp_path, data):
    path = tmp_path / "t.json"
    assert run_ranks(_run, 1, job_config(data, None, 3, trace=str(path), trace_steps="1-3")) == [3]
    found = seconds(path)
    parts = sum(value for kind, value in found.items() if kind != "step")
    assert parts == pytest.approx(found["step"], rel=1e-6)
    assert 0 < found["engine"] < found["step"]


def test_evaluations_and_checkpoints_are_in_it(tmp_path, data):
    path = tmp_path / "t.json"
    config = job_config(data, tmp_path / "run", 4, trace=str(path), trace_steps="2-3", save_interval=1)
    assert run_ranks(_run, 1, config) == [4]
    saves = [event["args"]["step"] for event in spans(path) if event["cat"] == "save"]
    assert saves == [2, 3]


def _skewed(path: Path) -> None:
    """Rank r's clock is r hours ahead, and all ranks record the same moment."""
    ahead = dist.get_rank() * 3600 * 10**9
    recorder = Recorder(lambda: time.perf_counter_ns() + ahead)
    recorder.on = True
    dist.barrier()
    with recorder.span("step"):
        dist.barrier()
    trace.write(path, recorder, "here")


def test_clocks_are_set_by_rank_0s(tmp_path):
    run_ranks(_skewed, 3, tmp_path / "t.json")
    found = spans(tmp_path / "t.json")
    assert len(found) == 3
    # All were within the barrier at once.
    assert max(e["ts"] for e in found) < min(e["ts"] + e["dur"] for e in found) + 2000
    assert max(e["ts"] for e in found) < 1e6


def _part_is_lost(path: Path) -> str | None:
    recorder = Recorder()
    recorder.on = True
    with recorder.span("step"):
        pass
    if dist.get_rank() == 1:
        trace._part = lambda path, rank: Path("/proc/nowhere")
    try:
        trace.write(path, recorder, "here")
    except trace.MccError as error:
        return error.what
    return None


def test_a_part_that_cannot_be_written_is_told_by_rank_0(tmp_path):
    told, other = run_ranks(_part_is_lost, 2, tmp_path / "t.json")
    assert "cannot write the trace" in told and other is None
    assert list(tmp_path.iterdir()) == []


def test_a_trace_that_cannot_be_written_does_not_end_the_run(tmp_path, data):
    config = job_config(data, None, 3, trace="/proc/nowhere/t.json", trace_steps="1-2")
    assert run_ranks(_run, 1, config) == [3]
