"""`mcc eval`: scores of a checkpoint in any format, without converting it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mcc.cli import console
from mcc.core.errors import UsageError

app = typer.Typer(
    name="eval",
    help="Score checkpoints: zero-shot tasks, perplexity. CKPT is a checkpoint in any format, or a training run's "
    "folder, whose latest checkpoint is taken.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_Checkpoint = Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint, or a training run's folder.")]
_Tokenizer = Annotated[
    Path | None, typer.Option("--tokenizer", metavar="FILE", help="Tokenizer.", show_default="the one beside CKPT")
]
_Device = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, ...", show_default="a GPU")]
_BatchTokens = Annotated[
    int | None,
    typer.Option("--batch-tokens", min=1, metavar="N", help="Most tokens of a forward pass; changes no score."),
]
_PANEL = "Several ranks"
_Nproc = Annotated[
    int | None,
    typer.Option(
        "--nproc", min=1, metavar="N", help="Ranks to start on this machine; or start them with torchrun.",
        show_default="TP x PP", rich_help_panel=_PANEL,
    ),
]  # fmt: skip
_Tp = Annotated[
    int, typer.Option("--tp", min=1, metavar="TP", help="Cut every layer among TP ranks.", rich_help_panel=_PANEL)
]
_Pp = Annotated[
    int,
    typer.Option(
        "--pp", min=1, metavar="PP", help="Cut the layers into PP stages. Ranks beyond TP x PP share the requests.",
        rich_help_panel=_PANEL,
    ),
]  # fmt: skip


@app.command("zero-shot")
def zero_shot(
    checkpoint: _Checkpoint,
    names: Annotated[str, typer.Option("--tasks", metavar="NAME,NAME,...", help="What to score.")],
    task_file: Annotated[
        list[str] | None,
        typer.Option(
            "--task-file", metavar="[NAME=]FILE", help="Local JSONL for a task, with the data set's own fields."
        ),
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option(
            "--num-fewshot", min=0, metavar="K", help="Examples before each document.", show_default="the task's"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Score the first N documents of each task.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write results.json, run.json, samples_TASK.jsonl.")
    ] = None,
    tokenizer: _Tokenizer = None,
    device: _Device = None,
    batch_tokens: _BatchTokens = None,
    nproc: _Nproc = None,
    tp: _Tp = 1,
    pp: _Pp = 1,
    as_json: console.JSON = False,
) -> None:
    """Score tasks through lm-evaluation-harness: its prompts, metrics and standard errors.

    With a [cyan]--task-file[/] (cloze, hellaswag, lambada, piqa, winogrande) a task needs no network.

    Any other name is the harness's own task, whose data it downloads.

    Example: [cyan]mcc eval zero-shot runs/small --tasks lambada --task-file test.jsonl --out scores[/]

    Example: [cyan]mcc eval zero-shot runs/small --tasks piqa,lambada --task-file piqa=p.jsonl --limit 100 --json[/]
    """
    from mcc.ckpt.source import Layout
    from mcc.eval.catalogue import parse_task_files
    from mcc.eval.launch import on_ranks
    from mcc.eval.scorer import DEFAULT_BATCH_TOKENS
    from mcc.eval.zero_shot import zero_shot

    tasks = [name.strip() for name in names.split(",") if name.strip()]
    if not tasks:
        raise UsageError("--tasks names no task", "for instance --tasks lambada,piqa")
    report = on_ranks(
        zero_shot,
        nproc=nproc,
        layout=Layout(tp=tp, pp=pp),
        reporter=console.reporter,
        checkpoint=checkpoint,
        tasks=tasks,
        task_files=parse_task_files(tasks, task_file or []),
        num_fewshot=num_fewshot,
        limit=limit,
        batch_tokens=batch_tokens or DEFAULT_BATCH_TOKENS,
        tokenizer=tokenizer,
        device=device,
        out=out,
    )
    if as_json:
        console.print_json(report)
        return
    rows = []
    for task, score in report.results.items():
        for i, (name, metric) in enumerate(score.metrics.items()):
            arrow = {True: "higher", False: "lower", None: None}[metric.higher_is_better]
            first = (task, score.samples, score.num_fewshot) if i == 0 else (None, None, None)
            seconds = report.seconds.get(task) if i == 0 else None
            rows.append((*first, name, metric.value, metric.stderr, arrow, seconds))
    columns = ("task", "documents", "examples", "metric", "value", "std. error", "better", "seconds")
    console.table(f"Zero-shot scores of {checkpoint}", columns, rows)


@app.command()
def perplexity(
    checkpoint: _Checkpoint,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Plain text, or JSONL documents (.jsonl, .json).")],
    overlap: Annotated[
        int | None,
        typer.Option("--overlap", min=1, metavar="N", help="Tokens by which windows advance.", show_default="32"),
    ] = None,
    word_level: Annotated[
        bool, typer.Option("--word-level/--no-word-level", help="Perplexity of a word of the text too.")
    ] = True,
    detokenize: Annotated[
        str | None,
        typer.Option("--detokenize", metavar="NAME", help="wikitext: FILE is WikiText, tokenized by its makers."),
    ] = None,
    field: Annotated[str, typer.Option("--field", metavar="NAME", help="Field of a JSONL document.")] = "text",
    tokenizer: _Tokenizer = None,
    device: _Device = None,
    batch_tokens: _BatchTokens = None,
    nproc: _Nproc = None,
    tp: _Tp = 1,
    pp: _Pp = 1,
    as_json: console.JSON = False,
) -> None:
    """Perplexity of a text, by Megatron-LM's protocol for WikiText-103.

    Windows of the model's context advance by [cyan]--overlap[/] tokens; the newest of each are scored.

    Fewer is slower and sees more context; the context length itself makes disjoint windows.

    Example: [cyan]mcc eval perplexity runs/small wiki.test.tokens --detokenize wikitext --json[/]
    """
    from mcc.ckpt.source import Layout
    from mcc.eval.launch import on_ranks
    from mcc.eval.perplexity import DEFAULT_OVERLAP, perplexity
    from mcc.eval.scorer import DEFAULT_BATCH_TOKENS

    report = on_ranks(
        perplexity,
        nproc=nproc,
        layout=Layout(tp=tp, pp=pp),
        reporter=console.reporter,
        checkpoint=checkpoint,
        file=file,
        overlap=overlap or DEFAULT_OVERLAP,
        word_level=word_level,
        detokenize=detokenize,
        field=field,
        batch_tokens=batch_tokens or DEFAULT_BATCH_TOKENS,
        tokenizer=tokenizer,
        device=device,
    )
    if as_json:
        console.print_json(report)
        return
    rows: list[tuple[str, object]] = [
        ("perplexity of a token", report.perplexity),
        ("loss, nats a token", report.loss),
        ("tokens scored", report.scored_tokens),
    ]
    if report.words is not None:
        rows = [("perplexity of a word", report.word_perplexity), *rows, ("words", report.words)]
    rows += [
        ("documents", report.documents),
        ("windows", f"{report.context} tokens, advancing by {report.overlap}"),
        ("seconds", report.seconds),
    ]
    console.table(f"{checkpoint} on {file}", ("what", "value"), rows)
