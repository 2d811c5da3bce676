"""`mcc eval compare`: scores of several checkpoints side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mcc.cli import console
from mcc.cli.eval_options import BatchTokens, Device, Nproc, Pp, Tokenizer, Tp
from mcc.core.errors import UsageError


def compare(
    what: Annotated[
        list[Path], typer.Argument(metavar="A B ...", help="Checkpoints, or folders of mcc eval zero-shot --out.")
    ],
    names: Annotated[
        str | None, typer.Option("--tasks", metavar="NAME,NAME,...", help="What to score checkpoints on.")
    ] = None,
    task_file: Annotated[
        list[str] | None, typer.Option("--task-file", metavar="[NAME=]FILE", help="As in mcc eval zero-shot.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option("--num-fewshot", min=0, metavar="K", help="Examples before each document.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Score the first N documents of each task.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Keep each checkpoint's scores in a folder of DIR.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the scores: .png, .svg or .pdf.")
    ] = None,
    tokenizer: Tokenizer = None,
    device: Device = None,
    batch_tokens: BatchTokens = None,
    nproc: Nproc = None,
    tp: Tp = 1,
    pp: Pp = 1,
    as_json: console.JSON = False,
) -> None:
    """Put scores side by side: a column for each checkpoint, the best of each line marked.

    What is scored already (a folder with results.json) is read; other checkpoints are scored.

    Example: [cyan]mcc eval compare scores/a scores/b --plot compared.png[/]

    Example: [cyan]mcc eval compare runs/a runs/b --tasks lambada --task-file test.jsonl --limit 100[/]
    """
    from mcc.eval import compare as comparing

    if len(what) < 2:
        raise UsageError("a comparison needs two or more", "mcc eval compare A B ...")
    if image is not None:
        comparing.image_kind(image)  # before anything is scored
    scored = [comparing.is_scored(path) for path in what]
    if not all(scored) and names is None:
        missing = what[scored.index(False)]
        raise UsageError(f"{missing} has no scores yet: which tasks?", "--tasks NAME,NAME, as in mcc eval zero-shot")
    labels = _labels(what)
    reports: list[dict[str, Any]] = []
    for path, label, done in zip(what, labels, scored, strict=True):
        if done:
            reports.append(comparing.read_results(path))
        else:
            reports.append(
                _score(
                    path, str(names), task_file or [], out / label if out else None, nproc, tp, pp,
                    num_fewshot=num_fewshot, limit=limit, tokenizer=tokenizer, device=device, batch_tokens=batch_tokens,
                )
            )  # fmt: skip
    found = comparing.compare(labels, reports)
    if image is not None:
        comparing.plot(found, image)
    if as_json:
        console.print_json(found)
        return
    rows = []
    for line in found.lines:
        cells = [
            None if value is None else f"{value:.4g}{'' if error is None else f' ± {error:.2g}'}{' *' if best else ''}"
            for value, error, best in zip(
                line.values, line.stderrs, (i == line.best for i in range(len(labels))), strict=True
            )
        ]
        arrow = {True: "higher", False: "lower", None: None}[line.higher_is_better]
        rows.append((line.task, line.metric, arrow, *cells, line.distance))
    console.table("Scores", ("task", "metric", "better", *labels, "std. errors apart"), rows)


def _score(
    checkpoint: Path,
    names: str,
    task_file: list[str],
    out: Path | None,
    nproc: int | None,
    tp: int,
    pp: int,
    batch_tokens: int | None,
    **settings: Any,
) -> dict[str, Any]:
    from dataclasses import asdict

    from mcc.ckpt.source import Layout
    from mcc.eval.catalogue import parse_task_files
    from mcc.eval.launch import on_ranks
    from mcc.eval.scorer import DEFAULT_BATCH_TOKENS
    from mcc.eval.zero_shot import zero_shot

    tasks = [name.strip() for name in names.split(",") if name.strip()]
    report = on_ranks(
        zero_shot,
        nproc=nproc,
        layout=Layout(tp=tp, pp=pp),
        reporter=console.reporter,
        checkpoint=checkpoint,
        tasks=tasks,
        task_files=parse_task_files(tasks, task_file),
        batch_tokens=batch_tokens or DEFAULT_BATCH_TOKENS,
        out=out,
        **settings,
    )
    return asdict(report)


def _labels(paths: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart, as names of folders."""
    parts = [(path.parent if path.name == "results.json" else path).parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        found = ["_".join(part.strip("/") for part in each[-count:]) for each in parts]
        if len(set(found)) == len(found):
            return found
    return [f"{index}_{each[-1]}" for index, each in enumerate(parts, 1)]
