"""Does what a pipeline declares, skips what is done, and says what became of the documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from mcc.core.config import plain
from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import remove
from mcc.core.provenance import write
from mcc.data.base.job import Job, run
from mcc.data.base.step import StepReport
from mcc.data.base.work import work_path
from mcc.data.pipeline import Pipeline, Planned
from mcc.data.pipelines.cache import STEPS, Cache
from mcc.data.pipelines.profile import ProfileConfig, profile_job, read_profile
from mcc.data.pipelines.stage import STAGES, Stage, make_job
from mcc.data.tokens.vocabulary import TokenizerFiles

MakeJob = Callable[[], Job[Any]]


class Runner(Protocol):
    """Runs a job somewhere."""

    def run(self, make: MakeJob, reporter: Reporter) -> StepReport:
        """Do what is left of the job that `make`, which is picklable, makes."""

    def close(self) -> None:
        """Let go of what the runner holds."""


@dataclass(frozen=True)
class InProcess:
    """Here, with `workers` processes."""

    workers: int = 1

    def run(self, make: MakeJob, reporter: Reporter) -> StepReport:
        return run(make(), self.workers, reporter)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One step of a finished pipeline.

    Args:
        cached: whether it had been done before.
        report: the step's own report.
        profile: what the documents are like that it left (`mcc.data.pipelines.profile`); None when it left none.
        bytes_out: of the files it left, on disk.
    """

    number: int
    name: str
    stage: str
    cached: bool
    report: Mapping[str, Any]
    bytes_out: int
    profile: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class PipelineReport:
    """What a pipeline did; `page` is the HTML report."""

    file: str
    folder: str
    steps: tuple[StepResult, ...]
    seconds: float
    page: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


def run_pipeline(pipeline: Pipeline, runner: Runner | None = None, reporter: Reporter = SILENT) -> PipelineReport:
    """Do all steps that are not done, in order; write `report.html` and `run.json` to the pipeline's folder.

    Raises:
        MccError: a step failed, or set more lines aside than its `read.max_errors`; later steps are not begun.
    """
    from mcc.data.pipelines.page import write_page

    started = time.perf_counter()
    runner = runner or InProcess()
    try:
        (pipeline.folder / STEPS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MccError(f"cannot write {pipeline.folder}: {error.strerror}", "choose another folder") from error
    cache = Cache(pipeline)
    done = [_do(step, cache, runner, reporter) for step in pipeline.steps]
    tokenizer = _tokenizer(pipeline)
    profiles = [_profile(pipeline, step, report, tokenizer, cache, runner, reporter) for step, (report, _) in
                zip(pipeline.steps, done, strict=True)]  # fmt: skip
    results = tuple(
        StepResult(
            number=step.number, name=step.name, stage=step.stage, cached=cached, report=report,
            bytes_out=sum(Path(path).stat().st_size for path in _main_outputs(step, report)), profile=profile,
        )
        for step, (report, cached), profile in zip(pipeline.steps, done, profiles, strict=True)
    )  # fmt: skip
    page = pipeline.folder / "report.html"
    report = PipelineReport(
        file=str(pipeline.file), folder=str(pipeline.folder), steps=results, page=str(page),
        seconds=round(time.perf_counter() - started, 3), variables=dict(pipeline.variables),
    )  # fmt: skip
    write_page(page, pipeline, report)
    settings = {step.name: {"stage": step.stage, **plain(step.config)} for step in pipeline.steps}
    write(pipeline.folder, {"steps": settings, "report": asdict(report)}, {})
    return report


def states(pipeline: Pipeline) -> list[str]:
    """For each step what a run would do: `done`, `to do`, or `to do after STEP` when it depends on one that is not."""
    cache = Cache(pipeline)
    open_steps: set[str] = set()
    found = []
    for step in pipeline.steps:
        waits = [name for name in step.after if name in open_steps]
        if not waits and cache.get(_entry(step), cache.key(step)) is not None:
            found.append("done")
            continue
        open_steps.add(step.name)
        found.append(f"to do after {waits[0]}" if waits else "to do")
    return found


def _do(step: Planned, cache: Cache, runner: Runner, reporter: Reporter) -> tuple[dict[str, Any], bool]:
    """The report of a step, and whether it was done before."""
    try:
        key = cache.key(step)
        found = cache.get(_entry(step), key)
        cached = found is not None
        if found is None:
            found = asdict(_run(step, runner, reporter))
            cache.put(_entry(step), key, [path for path in map(Path, found["outputs"]) if path.is_file()], found)
    except MccError as error:
        raise type(error)(f"step {step.number} ({step.name}): {error.what}", error.hint) from error
    tolerated = getattr(getattr(step.config, "read", None), "max_errors", 0)
    if found["bad_lines"] > tolerated:
        lines = "1 bad line" if found["bad_lines"] == 1 else f"{found['bad_lines']:,} bad lines"
        rejects = [path for path in found["outputs"] if "rejects" in path]
        raise MccError(
            f"step {step.number} ({step.name}): {lines}, more than read.max_errors = {tolerated}; all others were done",
            f"see {rejects[0] if rejects else 'the file of rejects'}; correct them, or set max_errors in [read]",
        )
    return found, cached


def _run(step: Planned, runner: Runner, reporter: Reporter) -> StepReport:
    stage: Stage[Any] = STAGES.get(step.stage)()
    try:
        return runner.run(partial(make_job, step.stage, step.call, step.config), reporter)
    except MccError as error:
        other = stage.instead(step.config, error)
        if other is None:
            raise
        reporter.warn(f"{step.name}: {error.what}; all is done again in another way")
        make = partial(make_job, step.stage, step.call, other)
        remove(work_path(make().output))
        return runner.run(make, reporter)


def _profile(
    pipeline: Pipeline,
    step: Planned,
    report: Mapping[str, Any],
    tokenizer: TokenizerFiles | None,
    cache: Cache,
    runner: Runner,
    reporter: Reporter,
) -> dict[str, Any] | None:
    """What the documents are like that a step left; measured once."""
    if not pipeline.report.measure or not STAGES.get(step.stage).records or not report["documents_out"]:
        return None
    output = pipeline.folder / STEPS / f"{_entry(step)}.profile.json"
    read = getattr(step.config, "read", None)
    config = ProfileConfig(
        documents=report["documents_out"],
        tokenizer=tokenizer,
        sample=pipeline.report.sample,
        languages=pipeline.report.languages,
        key=read.keys[0] if read is not None else "text",
    )
    as_step = Planned(
        number=step.number,
        name=step.name,
        stage="profile",
        call=step.call.__class__(inputs=(str(step.call.output),), output=output),
        config=config,
    )
    key = cache.key(as_step)
    found = cache.get(f"{_entry(step)}.look", key)
    if found is None:
        runner.run(partial(profile_job, as_step.call.inputs, output, config), reporter)
        found = read_profile(output)
        cache.put(f"{_entry(step)}.look", key, [output], found)
    return found if found["documents"] else None  # records without a text: URLs


def _tokenizer(pipeline: Pipeline) -> TokenizerFiles | None:
    if pipeline.report.tokenizer is not None:
        return TokenizerFiles(model=pipeline.report.tokenizer)
    found = [STAGES.get(step.stage)().tokenizer(step.config) for step in pipeline.steps]
    return next((tokenizer for tokenizer in found if tokenizer is not None), None)


def _entry(step: Planned) -> str:
    return f"{step.number:02d}-{step.name}"


def _main_outputs(step: Planned, report: Mapping[str, Any]) -> list[str]:
    """The files that are the result, without those beside it."""
    sides = {str(path) for path in step.call.sides.values()}
    return [path for path in report["outputs"] if path not in sides and ".rejects." not in path]
