"""The files of a shard: bytes at their places whoever writes them, and a journal that never runs ahead of them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mcc.core.errors import MccError
from mcc.data.base.blocks import Block
from mcc.data.base.job import Map, run
from mcc.data.base.part import Part
from mcc.data.base.records import ReadConfig
from mcc.data.base.shard_files import BlockWorker, Place, ShardFiles
from mcc.data.base.work import Work, work_path
from mcc.data.base.workers import WorkerDied, Workers
from tests.data.base.test_job import corpus, job

__all__ = ["corpus"]
STREAMS = ("a", "b")


def letters(block: Block, out: Part) -> None:
    out.write_bytes("a", b"x" * (10 + block.part))
    if block.part != 1:
        out.write_bytes("b", bytes([65 + block.part]))
    out.counts["n"] = 1


def opened(work: Work) -> ShardFiles:
    return ShardFiles(work, "phase", 0, STREAMS)


def test_the_journal_waits_for_earlier_blocks(tmp_path: Path) -> None:
    work = Work(tmp_path)
    folder = work.shard("phase", 0)
    with opened(work) as files:
        worker = BlockWorker(letters, dict.fromkeys(STREAMS, ""), folder)
        waiting: list[tuple[Place, Future[None]]] = []

        def later(place: Place) -> Future[None]:
            waiting.append((place, Future()))
            return waiting[-1][1]

        def write(number: int) -> None:
            place, future = waiting[number]
            future.set_result(worker(place))

        for part in range(3):
            files.add(worker(Block(path="p", unit=0, part=part, size=7)), later)
        assert [place.offsets for place, _ in waiting] == [{"a": 0, "b": 0}, {"a": 10}, {"a": 21, "b": 1}]
        write(2)
        write(0)
        files.add(worker(Block(path="p", unit=0, part=3, size=7)), later)
        assert files.written == {"a": 10, "b": 1} and files.last == (0, 0) and files.size == 7
        assert (folder / "a").stat().st_size == 33  # the second block's place is a hole
    assert work.counts("phase") == {"n": 1} and work.done("phase") is None
    with opened(work) as files:  # as after a kill
        assert files.last == (0, 0) and files.size == 7
        assert ((folder / "a").read_bytes(), (folder / "b").read_bytes()) == (b"x" * 10, b"A")
        for part in range(1, 4):
            files.add(worker(Block(path="p", unit=0, part=part)), lambda place: now(worker, place))
        files.end()
    assert ((folder / "a").read_bytes(), (folder / "b").read_bytes()) == (b"x" * 46, b"ACD")
    assert work.done("phase") == {"n": 4}


def now(worker: BlockWorker, place: Place) -> Future[None]:
    future: Future[None] = Future()
    future.set_result(worker(place))
    return future


def test_what_cannot_be_written_ends_the_shard(tmp_path: Path) -> None:
    work = Work(tmp_path)
    with opened(work) as files:
        worker = BlockWorker(letters, dict.fromkeys(STREAMS, ""), work.shard("phase", 0))
        failed: Future[Any] = Future()
        failed.set_exception(OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match="No space"):
            files.add(worker(Block(path="p", unit=0)), lambda _: failed)
    assert work.counts("phase") == {}


def double() -> Callable[[Any], Any]:
    return partial(dict, process=os.getpid())


def test_more_is_given_to_the_process_that_had_the_item() -> None:
    with Workers(3) as workers:
        found = [(first, again({}).result()) for first, again in workers.map(double, [{"i": i} for i in range(200)])]
    assert all(first["process"] == second["process"] for first, second in found)
    assert len({first["process"] for first, _ in found}) == 3


def test_a_process_that_dies_later_is_told_of() -> None:
    with pytest.raises(MccError, match="a worker process died"), Workers(2) as workers:
        for process, again in workers.map(pids, range(50)):
            if process != os.getpid():
                again(None).result()


def pids() -> Callable[[Any], int]:
    return lambda item: os._exit(3) if item is None else os.getpid()


def test_killed_with_two_workers(corpus: list[Path], tmp_path: Path) -> None:
    run(job(corpus, tmp_path / "whole" / "out.jsonl.gz"))
    folder = tmp_path / "killed"
    output = folder / "out.jsonl.gz"
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path; from tests.data.base.test_job import job, run\n"
        "if __name__ == '__main__':\n"
        f"  run(job([Path(p) for p in {[str(p) for p in corpus]!r}], Path({str(output)!r})), workers=2)"
    )
    root = Path(__file__).parents[3]
    journal = work_path(output) / "upper" / "00000" / "journal"
    for lines in (3, 9):
        with subprocess.Popen([sys.executable, program], env={**os.environ, "PYTHONPATH": str(root)}) as killed:
            while killed.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
                time.sleep(0.001)
            killed.send_signal(signal.SIGKILL)
    report = run(job(corpus, output), workers=2)
    assert report.documents_in == 100 and report.rejected == {"odd": 50}
    for name in ("out.jsonl.gz", "rejects.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def mortal(stop: Path, work: Work) -> Callable[[Block, Part], None]:
    """Copies; another process than the test's dies at its sixth block while there is a file `stop`."""
    seen = 0

    def apply(block: Block, out: Part) -> None:
        nonlocal seen
        seen += 1
        if multiprocessing.parent_process() is None:
            time.sleep(0.01)
        elif seen == 6 and stop.exists():
            stop.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        for _, record in block.records(ReadConfig(), out):
            out.keep(record, 0)

    return apply


def test_what_was_done_stays_when_a_worker_dies(corpus: list[Path], tmp_path: Path) -> None:
    stop, output = tmp_path / "stop", tmp_path / "made" / "out.jsonl"
    made = job(corpus, output)
    assert isinstance(made.phases[0], Map)
    made = replace(made, phases=(replace(made.phases[0], make=partial(mortal, stop)), made.phases[1]))
    stop.touch()
    with pytest.raises(WorkerDied):
        run(made, workers=2)
    journal = work_path(output) / "upper" / "00000" / "journal"
    assert journal.read_bytes().count(b"\n") >= 1 and not output.exists()
    report = run(made, workers=2)
    assert report.documents_in == 100 and not work_path(output).exists()
    assert output.read_bytes() == b"".join(path.read_bytes() for path in corpus)
