"""A paper's comparison run again: its settings one after another, and their steps on shaped links."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcc.core import provenance
from mcc.core.errors import MccError, unknown
from mcc.core.events import SILENT, Reporter
from mcc.train.compress.presets import expand
from mcc.train.papers.base import links, run
from mcc.train.papers.base.config import PaperConfig, Place
from mcc.train.papers.base.paper import Paper, Setting, Values
from mcc.train.papers.base.report import Report, Row, write


def rerun(
    name: str,
    paper: Paper,
    config: PaperConfig,
    reporter: Reporter = SILENT,
    program: Sequence[str] = run.PROGRAM,
) -> Report:
    """Make the runs that are not there yet and write the table; a setting that fails does not end the others.

    Args:
        name: the paper's.
        program: what runs `mcc`.

    Raises:
        UsageError: a setting is unknown, or inputs are missing; nothing was started.
    """
    settings = chosen(paper, config)
    work = Path(config.work or Path(config.out) / "work") / name
    models, data = (None if folder is None else Path(folder) for folder in (config.models, config.data))
    place = Place(models=models, data=data, work=work)
    training = dict(paper.training(config, place, reporter)) | {f"parallel.{a}": n for a, n in paper.axes.items()}
    training["run.seed"] = config.seed
    rows = []
    with reporter.task(name, len(settings), "settings") as task:
        for setting in settings:
            rows.append(_row(setting, training, paper, config, place, reporter, program))
            task.advance()
    times: Mapping[str, links.Times] = {}
    goodput: Mapping[str, float] = {}
    no_links = links.why_not() if config.links else "not asked for"
    if no_links is None:
        ran = [setting for setting, row in zip(settings, rows, strict=True) if row.run and not setting.twin]
        on_links = {**training, **paper.timed(training, place, reporter)}
        times, goodput = links.timed(paper, ran, on_links, config, work, reporter)
        rows = [dataclasses.replace(row, step_s=times.get(row.name, {})) for row in rows]
    record = provenance.describe({}, {"seed": config.seed})
    report = Report(
        paper=name,
        source=paper.source,
        layout=paper.layout,
        size=config.size if config.steps is None else f"{config.size}, {config.steps} steps",
        quality=paper.quality,
        rows=rows,
        no_links=no_links,
        goodput_mbit=goodput,
        versions={key: record[key] for key in ("mcc", "git", "python", "packages", "started")},
    )
    write(report, Path(config.out))
    return report


def chosen(paper: Paper, config: PaperConfig) -> list[Setting]:
    """The settings to run, the dense one first.

    Raises:
        UsageError: one is unknown.
    """
    known = {setting.name: setting for setting in paper.settings()}
    for name in config.only:
        if name not in known:
            raise unknown("setting", name, known)
    first, *others = known.values()
    wanted = [s for s in others if s.name in config.only or (not config.only and (config.size == "full" or not s.full))]
    return [first, *wanted]


def _row(
    setting: Setting,
    training: Values,
    paper: Paper,
    config: PaperConfig,
    place: Place,
    reporter: Reporter,
    program: Sequence[str],
) -> Row:
    arguments = run.words({**training, **setting.values}, setting.compress, paper.ranks)
    folder = place.work / setting.name
    codecs, _ = expand(setting.compress)
    command = [place.public(word) for word in arguments]
    row = Row(name=setting.name, compress=setting.compress, codecs=codecs, command=command)
    try:
        found: Mapping[str, Any] | None = run.kept(folder, arguments, codecs)
        if found is None:
            steps = {**training, **setting.values}.get("run.train_iters", 0)
            found = run.train(setting.name, arguments, codecs, steps, folder, config.limit, reporter, program)
    except MccError as error:
        reporter.warn(str(error))
        return dataclasses.replace(row, error=place.public(error.what))
    scores = found["scores"]
    return dataclasses.replace(row, run=found, figures=paper.figures(scores[-1]) if scores else {})
