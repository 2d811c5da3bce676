"""`mcc eval`: scores of a checkpoint in any format, without converting it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mcc.cli import console, eval_compare, eval_generate, eval_task
from mcc.cli.eval_options import BatchTokens, Checkpoint, Codec, Device, Nproc, Pp, Tokenizer, Tp, codec_ways
from mcc.core.errors import UsageError, unknown

app = typer.Typer(
    name="eval",
    help="Score checkpoints: zero-shot tasks, perplexity, fine-tuned tasks; continue texts. CKPT is a checkpoint in "
    "any format, or a training run's folder, whose latest checkpoint is taken.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

app.command("compare")(eval_compare.compare)
app.command("task")(eval_task.task)
app.command("generate")(eval_generate.generate)


@app.command("zero-shot")
def zero_shot(
    checkpoint: Checkpoint,
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
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Write results.json, run.json, samples_TASK.jsonl; an interrupted run goes on where it ended.",
        ),
    ] = None,
    tokenizer: Tokenizer = None,
    device: Device = None,
    batch_tokens: BatchTokens = None,
    nproc: Nproc = None,
    tp: Tp = 1,
    pp: Pp = 1,
    codec: Codec = None,
    as_json: console.JSON = False,
) -> None:
    """Score tasks through lm-evaluation-harness: its prompts, metrics and standard errors.

    With a [cyan]--task-file[/] (cloze, hellaswag, lambada, mathqa, piqa, race, winogrande) a task needs no network; a
    .toml there describes a task of your own.

    Any other name is the harness's own task, whose data it downloads.

    Example: [cyan]mcc eval zero-shot runs/small --tasks lambada --task-file test.jsonl --out scores[/]

    Example: [cyan]mcc eval zero-shot runs/small --tasks piqa,lambada --task-file piqa=p.jsonl --limit 100 --json[/]
    """
    from mcc.ckpt.source import Layout
    from mcc.eval.catalogue import parse_task_files
    from mcc.eval.launch import on_ranks
    from mcc.eval.scorer import DEFAULT_BATCH_TOKENS
    from mcc.eval.zero_shot import ZeroShotReport, zero_shot

    tasks = [name.strip() for name in names.split(",") if name.strip()]
    if not tasks:
        raise UsageError("--tasks names no task", "for instance --tasks lambada,piqa")
    ways = codec_ways(codec)
    reports: dict[str, ZeroShotReport] = {
        way: on_ranks(
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
            out=out / f"codec-{way}" if out and len(ways) > 1 else out,
            **settings,
        )
        for way, settings in ways.items()
    }
    if as_json:
        console.print_json(reports if len(reports) > 1 else next(iter(reports.values())))
        return
    for way, report in reports.items():
        rows = []
        for task, score in report.results.items():
            for i, (name, metric) in enumerate(score.metrics.items()):
                arrow = {True: "higher", False: "lower", None: None}[metric.higher_is_better]
                first = (task, score.samples, score.num_fewshot) if i == 0 else (None, None, None)
                seconds = report.seconds.get(task) if i == 0 else None
                rows.append((*first, name, metric.value, metric.stderr, arrow, seconds))
        columns = ("task", "documents", "examples", "metric", "value", "std. error", "better", "seconds")
        console.table(_title(f"Zero-shot scores of {checkpoint}", way), columns, rows)


@app.command()
def perplexity(
    checkpoint: Checkpoint,
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
    lambada: Annotated[
        str | None,
        typer.Option(
            "--lambada", metavar="HOW", help="strict, non-strict or both: FILE is LAMBADA; accuracy of its ends."
        ),
    ] = None,
    field: Annotated[str, typer.Option("--field", metavar="NAME", help="Field of a JSONL document.")] = "text",
    tokenizer: Tokenizer = None,
    device: Device = None,
    batch_tokens: BatchTokens = None,
    nproc: Nproc = None,
    tp: Tp = 1,
    pp: Pp = 1,
    codec: Codec = None,
    as_json: console.JSON = False,
) -> None:
    """Perplexity of a text, by Megatron-LM's protocol for WikiText-103.

    Windows of the model's context advance by [cyan]--overlap[/] tokens; the newest of each are scored.

    Fewer is slower and sees more context; the context length itself makes disjoint windows.

    Example: [cyan]mcc eval perplexity runs/small wiki.test.tokens --detokenize wikitext --json[/]

    Example: [cyan]mcc eval perplexity runs/small lambada_test.jsonl --lambada both[/]
    """
    from mcc.ckpt.source import Layout
    from mcc.eval.launch import on_ranks
    from mcc.eval.perplexity import PerplexityReport, perplexity
    from mcc.eval.scorer import DEFAULT_BATCH_TOKENS

    shared: dict[str, Any] = {
        "nproc": nproc, "layout": Layout(tp=tp, pp=pp), "reporter": console.reporter,
        "checkpoint": checkpoint, "file": file, "field": field,
        "batch_tokens": batch_tokens or DEFAULT_BATCH_TOKENS, "tokenizer": tokenizer, "device": device,
    }  # fmt: skip
    if lambada is not None:
        idle = {"--overlap": overlap, "--detokenize": detokenize, "--no-word-level": not word_level}
        for flag in (flag for flag, given in idle.items() if given):
            raise UsageError(f"{flag} with --lambada: only the end of each passage is scored", f"drop {flag}")
        _lambada(lambada, as_json, codec_ways(codec), shared)
        return
    reports: dict[str, PerplexityReport] = {
        way: on_ranks(
            perplexity,
            overlap=overlap,
            word_level=word_level,
            detokenize=detokenize,
            **shared,
            **settings,
        )
        for way, settings in codec_ways(codec).items()
    }
    if as_json:
        console.print_json(reports if len(reports) > 1 else next(iter(reports.values())))
        return
    for way, report in reports.items():
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
        console.table(_title(f"{checkpoint} on {file}", way), ("what", "value"), rows)


def _title(what: str, way: str) -> str:
    return f"{what}, codec {way}" if way else what


def _lambada(how: str, as_json: bool, codecs: dict[str, dict[str, Any]], shared: dict[str, Any]) -> None:
    from mcc.eval.last_word import LastWordReport, last_word
    from mcc.eval.launch import on_ranks

    ways = ("strict", "non-strict")
    if how not in (*ways, "both"):
        raise unknown("--lambada", how, (*ways, "both"))
    chosen = ways if how == "both" else (how,)
    reports: list[tuple[str, LastWordReport]] = [
        (codec, on_ranks(last_word, how=way, **shared, **settings))
        for codec, settings in codecs.items()
        for way in chosen
    ]
    if as_json:
        found = [{**vars(report), **({"codec": codec} if codec else {})} for codec, report in reports]
        console.print_json(found if len(found) > 1 else found[0])
        return
    rows = [(r.how, codec or None, r.accuracy, r.correct, r.documents, r.perplexity, r.seconds) for codec, r in reports]
    columns = ("LAMBADA", "codec", "accuracy", "correct", "passages", "perplexity", "seconds")
    console.table(f"{shared['checkpoint']} on {shared['file']}", columns, rows)
