"""Outputs get their names whole, wherever the process is killed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcc.core.events import SILENT
from mcc.data.base import publish
from mcc.data.base.job import Job, Map, finish, run, run_phase
from mcc.data.base.step import StepReport
from mcc.data.base.work import Work, opened, work_path
from tests.data.base.test_job import job
from tests.data.conftest import Write

SHARDS = 3


class Killed(BaseException):
    """Stands for the end of the process: nothing is tidied up."""


@pytest.fixture
def corpus(jsonl: Write) -> list[Path]:
    return [jsonl("in.jsonl", [{"id": i, "text": f"document {i} " * (i % 7 + 1)} for i in range(60)])]


def run_shards(wanted: Job[StepReport]) -> StepReport:
    with opened(wanted.output, wanted.fingerprint()) as work:
        if work.is_stale(wanted.outputs):
            work.clear()
        for phase in wanted.phases:
            world = SHARDS if isinstance(phase, Map) else 1
            for rank in range(world):
                run_phase(phase, work, wanted.name, rank=rank, world=world)
        return finish(wanted, work, SILENT)


def killing(patch: pytest.MonkeyPatch, at: int) -> None:
    """Kill before or after what changes files, at the `at`-th opportunity."""
    seen = 0

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == at:
                raise Killed
            result = real(*args)
            seen += 1
            if seen == at:
                raise Killed
            return result

        return call

    patch.setattr(publish, "remove", wrapped(publish.remove))
    patch.setattr(publish, "_move", wrapped(publish._move))
    patch.setattr(Work, "set_published", wrapped(Work.set_published))


@pytest.mark.parametrize("go", [run, run_shards])
@pytest.mark.parametrize("ending", ["jsonl.gz", "parquet"])
def test_killed_while_outputs_get_their_names(
    corpus: list[Path], tmp_path: Path, go: Callable[[Job[StepReport]], StepReport], ending: str
) -> None:
    output, rejects = tmp_path / f"out.{ending}", tmp_path / "rejects.jsonl"
    report = go(job(corpus, output))
    wanted = (output.read_bytes(), rejects.read_bytes())
    for at in range(1, 100):
        for path in (output, rejects):
            path.unlink()
        with pytest.MonkeyPatch.context() as patch:
            killing(patch, at)
            try:
                go(job(corpus, output))
                break  # that was the last opportunity
            except Killed:
                pass
        for path, whole in zip((output, rejects), wanted, strict=True):
            assert not path.exists() or path.read_bytes() == whole
        again = go(job(corpus, output))
        assert (output.read_bytes(), rejects.read_bytes()) == wanted
        assert again.outputs == report.outputs and not work_path(output).exists()
    assert 3 < at < 99


@pytest.mark.parametrize("taken", ["out.jsonl", "rejects.jsonl"])
def test_an_output_that_was_taken_away_is_made_again(corpus: list[Path], tmp_path: Path, taken: str) -> None:
    output = tmp_path / "out.jsonl"
    run(job(corpus, output))
    wanted = {name: (tmp_path / name).read_bytes() for name in ("out.jsonl", "rejects.jsonl")}
    with pytest.MonkeyPatch.context() as patch:

        def killed(_: Path) -> None:
            raise Killed

        patch.setattr("mcc.data.base.work.remove", killed)  # just before the folder of the job is deleted
        with pytest.raises(Killed):
            run(job(corpus, output))
    (tmp_path / taken).unlink()
    run(job(corpus, output))
    assert {name: (tmp_path / name).read_bytes() for name in wanted} == wanted
