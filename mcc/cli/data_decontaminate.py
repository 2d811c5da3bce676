"""The command of `mcc data` that cuts evaluation tasks out of documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
        list[str], typer.Option(metavar="NAME", help="Task: lambada, squad, ..., or jsonl; may be repeated.")
    ],
    task_file: Annotated[list[Path], typer.Option(metavar="FILE", help="The task's JSON lines, one for each --task.")],
    task_key: Annotated[
        str | None, typer.Option(help="Key of the text in the task files \\[default: the task's].")
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
    text_key: steps.TextKey = None,
    on_error: steps.OnError = None,
    max_errors: steps.MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Cut the passages of evaluation tasks out of documents, by GPT-3's 13-gram rule as Megatron-LM applies it.

    Example: [cyan]mcc data decontaminate unique.jsonl -o train.jsonl --task lambada --task-file lambada_test.jsonl[/]
    """
    from mcc.data.decontaminate import DecontaminateConfig, decontaminate

    if len(task) != len(task_file):
        raise UsageError(f"{len(task)} --task but {len(task_file)} --task-file", "give one file for each task")
    values = steps.given(
        max_ngram=max_ngram,
        min_ngram=min_ngram,
        key_threshold=key_threshold,
        remove_chars_each_side=remove_chars_each_side,
        min_piece_chars=min_piece_chars,
        max_pieces=max_pieces,
    )
    values["tasks"] = [
        steps.given(name=name, path=str(path), key=task_key) for name, path in zip(task, task_file, strict=True)
    ]
    values["read"] = steps.read((text_key,) if text_key else None, on_error, max_errors)
    report = decontaminate(inputs, output, build(DecontaminateConfig, values), console.reporter())
    rows = [(f"n-grams: {name}", count) for name, count in report.ngrams.items()]
    rows += [("n-grams left alone", report.common), ("records out", report.documents_out)]
    rows += [(f"cut out: {name}", count) for name, count in report.matched.items()]
    rows += [("trimmed", report.trimmed), ("split", report.split), ("dropped", report.dropped)]
    steps.show(report, as_json, *rows)
