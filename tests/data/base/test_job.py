"""Jobs: the same bytes whatever the workers, the shards and the kills."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.base.blocks import Block, RecordSource
from mcc.data.base.job import Job, Map, Single, finish, require_few_errors, run, run_phase, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output
from mcc.data.base.records import ReadConfig
from mcc.data.base.step import StepReport
from mcc.data.base.work import Work, opened, work_path
from tests.data.conftest import Write, read

BLOCK_BYTES = 300


def upper(read: ReadConfig, stop: Path | None, work: Work) -> Callable[[Block, Part], None]:
    """Upper-cases; rejects odd ids; kills itself at a document when there is a file `stop` that names it."""

    def apply(block: Block, out: Part) -> None:
        for where, record in block.records(read, out):
            if stop is not None and stop.exists() and record["id"] == int(stop.read_text()):
                stop.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if record["id"] % 2:
                out.reject(record, "odd", f"{record['id']} is odd", where)
            else:
                out.keep({**record, "text": record["text"].upper()}, len(record["text"]))

    return apply


def count_lines(work: Work, _: object) -> dict[str, int]:
    return {"lines": sum(path.read_bytes().count(b"\n") for path in work.parts("upper", "out"))}


def job(paths: list[Path], output: Path, config: ReadConfig | None = None, stop: Path | None = None) -> Job[StepReport]:
    config = config or ReadConfig()
    rejects = output.with_name("rejects.jsonl")
    outputs = (
        Output(rejects, phase="upper", stream="rejects", optional=True),
        Output(output, phase="upper", stream="out"),
    )

    def report(counts: Counter[str], work: Work) -> StepReport:
        return step_report(StepReport, "upper", counts, work, outputs, config.max_errors)

    source = RecordSource(paths, config, BLOCK_BYTES)
    return Job(
        name="upper",
        output=output,
        key="settings",
        phases=(
            Map(
                name="upper",
                source=source,
                make=partial(upper, config, stop),
                streams={"out": output, "rejects": rejects},
            ),
            Single(name="count", run=count_lines),
        ),
        outputs=outputs,
        report=report,
    )


@pytest.fixture
def corpus(jsonl: Write) -> list[Path]:
    records = [{"id": i, "text": f"document {i} " * (i % 7 + 1)} for i in range(100)]
    return [jsonl("a.jsonl", records[:60]), jsonl("b.jsonl", records[60:])]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.bz2"])
def test_workers_change_nothing(corpus: list[Path], tmp_path: Path, ending: str) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    reports = [run(job(corpus, tmp_path / str(n) / f"out{ending}"), workers=n) for n in (1, 2)]
    for name in (f"out{ending}", "rejects.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert names(tmp_path / "1") == sorted([f"out{ending}", "rejects.jsonl"])
    assert reports[0].rejected == reports[1].rejected == {"odd": 50}
    assert reports[0].documents_out == 50 and reports[0].documents_in == 100
    again = RecordSource([tmp_path / "1" / f"out{ending}"])
    texts = [
        r["id"] for u in range(again.units()) for b in again.blocks(u) for _, r in b.records(ReadConfig(), Part({}))
    ]
    assert texts == list(range(0, 100, 2))


def big(work: Work) -> Callable[[Block, Part], None]:
    def apply(block: Block, out: Part) -> None:
        for _, record in block.records(ReadConfig(), out):
            out.keep({**record, "text": record["text"] * 3000}, 0)
            out.reject(record, "all", "of them", "here")

    return apply


def test_much_is_written_by_several_processes(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [f"some text {i} " for i in range(20)])
    made = job([path], tmp_path / "out.jsonl")
    (phase, count), written = made.phases, []
    for workers in (1, 2):
        assert isinstance(phase, Map)
        run(replace(made, phases=(replace(phase, make=big), count)), workers=workers)
        written.append([(tmp_path / name).read_bytes() for name in ("out.jsonl", "rejects.jsonl")])
        assert not work_path(tmp_path / "out.jsonl").exists()
    assert written[0] == written[1] and len(written[0][0]) > 20 * 3000 * 10


def test_shards_joined_are_the_whole(corpus: list[Path], tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    run(job(corpus, whole))
    for world in (2, 3, 50):
        output = tmp_path / "shards.jsonl"
        task = job(corpus, output)
        with opened(output, [task.fingerprint(), world]) as work:
            for rank in reversed(range(world)):
                run_phase(task.phases[0], work, "upper", rank=rank, world=world)
            run_phase(task.phases[1], work, "upper")
            assert work.counts("count")["lines"] == 50
            finish(task, work, __import__("mcc.core.events").core.events.SILENT)
        assert output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("document", [0, 31, 77, 99])
def test_a_killed_job_goes_on(corpus: list[Path], tmp_path: Path, document: int) -> None:
    run(job(corpus, tmp_path / "whole" / "out.jsonl.gz"))
    stop = tmp_path / "stop"
    stop.write_text(str(document))
    folder = tmp_path / "killed"
    output = folder / "out.jsonl.gz"
    program = (
        "import sys; from pathlib import Path; from tests.data.base.test_job import job, run; "
        f"run(job([Path(p) for p in {[str(p) for p in corpus]!r}], Path({str(output)!r}), stop=Path({str(stop)!r})))"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names(folder) == [".out.jsonl.gz.work"]
    journal = (work_path(output) / "upper" / "00000" / "journal").read_text().splitlines()
    assert (len(journal) > 0) == (document > 10)
    # Half a line and half a block behind the last whole ones, as a kill may leave them.
    with (work_path(output) / "upper" / "00000" / "out").open("ab") as stream:
        stream.write(b"garbage")
    with (work_path(output) / "upper" / "00000" / "journal").open("ab") as stream:
        stream.write(b'{"place": [0')
    report = run(job(corpus, output))
    assert report.documents_in == 100 and report.rejected == {"odd": 50}
    assert output.read_bytes() == (tmp_path / "whole" / "out.jsonl.gz").read_bytes()
    assert names(folder) == ["out.jsonl.gz", "rejects.jsonl"]


def test_another_job_does_not_go_on(corpus: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    folder = work_path(output) / "upper" / "00000"
    folder.mkdir(parents=True)
    (folder / "out").write_bytes(b"old\n")
    (folder / "journal").write_text(json.dumps({"place": [99, 0], "sizes": {"out": 4}, "counts": {}, "size": 0}) + "\n")
    (work_path(output) / "key.json").write_text("another")
    run(job(corpus, output))
    assert len(read(output)) == 50


def test_workers_end_with_their_parent(corpus: list[Path], tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, time; from functools import partial; from mcc.data.base.workers import ordered_map;"
        "from tests.data.base.test_job import slow\n"
        "if __name__ == '__main__':\n"
        "  for pid in ordered_map(slow, range(100), 2): print(pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "program.py"
    path.write_text(program)
    root = Path(__file__).parents[3]
    out = subprocess.run(
        [sys.executable, str(path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    worker = int(out.stdout.split()[0])
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("a worker outlives its parent")


def slow() -> Callable[[int], int]:
    def apply(_: int) -> int:
        time.sleep(0.2)
        return os.getpid()

    return apply


def test_bad_lines_are_set_aside_or_end_the_job(corpus: list[Path], tmp_path: Path) -> None:
    with corpus[0].open("ab") as stream:
        stream.write(b'{"id": 1, "text": "cut\n{"id": 2, "text": "x", "text": "y"}\n')
    for workers in (1, 2):
        with pytest.raises(MccError, match=r"a\.jsonl:61: not JSON"):
            run(job(corpus, tmp_path / "out.jsonl", ReadConfig(on_error="fail")), workers=workers)
        assert names(tmp_path) == ["a.jsonl", "b.jsonl"]
    report = run(job(corpus, tmp_path / "out.jsonl"))
    assert report.bad_lines == 2
    bad = [line for line in read(tmp_path / "rejects.jsonl") if line["reason"].startswith("bad line")]
    assert [line["where"] for line in bad] == [f"{corpus[0]}:61", f"{corpus[0]}:62"]
    assert "'text' stands there twice" in bad[1]["reason"]
    with pytest.raises(MccError, match="2 bad lines, more than --max-errors 0"):
        require_few_errors(report)


def test_two_runs_at_once_are_refused(corpus: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with opened(output, "a"), pytest.raises(MccError, match="another process is writing"):
        run(job(corpus, output))


def test_output_over_input_is_refused(corpus: list[Path]) -> None:
    with pytest.raises(UsageError, match="both input and output"):
        run(job(corpus, corpus[1]))


def test_parquet_out_and_in(corpus: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    run(job(corpus, output))
    source = RecordSource([output], block_bytes=BLOCK_BYTES)
    found = [r for u in range(source.units()) for b in source.blocks(u) for _, r in b.records(ReadConfig(), Part({}))]
    run(job(corpus, tmp_path / "out.jsonl"))
    assert found == read(tmp_path / "out.jsonl")


def test_nothing_left_is_an_empty_file(jsonl: Write, tmp_path: Path) -> None:
    run(job([jsonl("in.jsonl", [{"id": 1, "text": "x"}])], tmp_path / "out.jsonl.gz"))
    assert gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()) == b""


def test_a_full_disk_says_which_file(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(MccError, match=r"cannot write .*out\.jsonl: no space left on device"), opened(output, "key"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []
