"""The command of `mcc data` that cuts evaluation tasks out of documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mcc.cli import console
from mcc.cli import data_steps as steps
from mcc.core.config import build
from mcc.core.errors import UsageError

app = typer.Typer(rich_markup_mode="rich")


@app.command()
def decontaminate(
    inputs: steps.Inputs,
    output: steps.Output,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Task: lambada, squad, ...; may be repeated."),
    ] = None,
    task_file: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="The task's file or folder, one for each --task that needs one, in order."),
    ] = None,
    task_key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Where the text stands in the task files; one for all, or one for each."),
    ] = None,
    load_dictionary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Saved n-grams and their counts, instead of tasks.")
    ] = None,
    save_dictionary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the n-grams and how many documents hold each (.jsonl).")
    ] = None,
    max_ngram: Annotated[int | None, typer.Option(help="Words of an n-gram \\[default: 13].")] = None,
    min_ngram: Annotated[int | None, typer.Option(help="Words of the shortest task text \\[default: 8].")] = None,
    key_threshold: Annotated[
        int | None, typer.Option(help="Leave n-grams alone that so many documents hold \\[default: 10].")
    ] = None,
    remove_chars_each_side: Annotated[int | None, typer.Option(help="Cut so far around one \\[default: 200].")] = None,
    min_piece_chars: Annotated[
        int | None, typer.Option(help="Drop pieces not longer than this \\[default: 200].")
    ] = None,
    max_pieces: Annotated[int | None, typer.Option(help="Drop documents in more pieces \\[default: 10].")] = None,
    workers: steps.Workers = None,
    rejects: steps.Rejects = None,
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Cut the passages of evaluation tasks out of documents, by GPT-3's 13-gram rule as Megatron-LM applies it.

    Tasks: lambada, squad, natural-questions, triviaqa, webqa, race, drop, coqa, piqa in their published files;
    jsonl for any other; lm-eval:NAME for a task of lm-evaluation-harness, which needs no file.

    Example: [cyan]mcc data decontaminate unique.jsonl -o train.jsonl --task lambada --task-file lambada_test.jsonl[/]

    Example: [cyan]mcc data decontaminate new.jsonl -o clean.jsonl --load-dictionary ngrams.jsonl.gz --workers 2[/]
    """
    from mcc.data.decontaminate import DecontaminateConfig, decontaminate

    if load_dictionary is not None and (max_ngram is not None or min_ngram is not None):
        raise UsageError("a saved dictionary has its own --max-ngram and --min-ngram", "leave them out")
    values = steps.given(
        dictionary=str(load_dictionary) if load_dictionary else None,
        max_ngram=max_ngram,
        min_ngram=min_ngram,
        key_threshold=key_threshold,
        remove_chars_each_side=remove_chars_each_side,
        min_piece_chars=min_piece_chars,
        max_pieces=max_pieces,
        workers=workers,
    )
    values["tasks"] = _tasks(task or [], task_file or [], task_key or [])
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    config = build(DecontaminateConfig, values)
    report = decontaminate(inputs, output, config, console.reporter(), rejects, save_dictionary)
    rows: list[tuple[str, object]] = [(f"n-grams: {name}", count) for name, count in report.ngrams.items()]
    rows += [("n-grams left alone", report.common), ("records out", report.documents_out)]
    for name, count in report.matched.items():
        rows.append((f"cut out: {name}", f"{count:,} n-grams from {report.contaminated[name]:,} documents"))
    rows += [("trimmed", report.trimmed), ("split", report.split), ("dropped", report.dropped)]
    steps.show(report, as_json, *rows)


def _tasks(names: list[str], paths: list[Path], keys: list[str]) -> list[dict[str, Any]]:
    """One task a name; files go to those that need one, or to all."""
    from mcc.data.ngrams.task_texts import TASK_FILES

    needing = [name for name in names if TASK_FILES.get(name.partition(":")[0]).needs_file]
    if len(paths) not in (len(needing), len(names)):
        raise UsageError(
            f"{len(names)} --task but {len(paths)} --task-file", "give one file for each task, in the same order"
        )
    if keys and not names:
        raise UsageError("--task-key without --task", "a saved dictionary needs none")
    if len(keys) > 1 and len(keys) != len(names):
        raise UsageError(f"{len(names)} --task but {len(keys)} --task-key", "give one key for all, or one for each")
    left = iter(paths)
    tasks = []
    for i, name in enumerate(names):
        path = str(next(left)) if len(paths) == len(names) or name in needing else None
        tasks.append(steps.given(name=name, path=path, key=keys[i % len(keys)] if keys else None))
    return tasks
