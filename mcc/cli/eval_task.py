"""`mcc eval task`: scores of fine-tuned models on labelled texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcc.cli import console
from mcc.cli.eval_options import BatchTokens, Checkpoint, Device, Nproc, Pp, Tokenizer, Tp

if TYPE_CHECKING:
    from mcc.ckpt.source import Layout
    from mcc.core.events import Reporter


def task(
    checkpoint: Checkpoint,
    name: Annotated[
        str,
        typer.Option(
            "--task",
            metavar="NAME",
            help="mrpc, mnli, qqp, qnli, sst2, cola, stsb, rte, wnli, race, classification, ...",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--task-data", metavar="PATH", help="The task's folder, whose validation files are scored, or a file."
        ),
    ],
    text_a: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of the text (task classification).")] = None,
    text_b: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of the second text, if there is one.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of the label.", show_default="label")] = None,
    labels: Annotated[str | None, typer.Option(metavar="A,B,...", help="Names of the classes.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--task-metrics",
            metavar="A,B",
            help="Some of accuracy, f1, matthews, pearson, spearman.",
            show_default="the task's",
        ),
    ] = None,
    seq_length: Annotated[
        int | None,
        typer.Option(min=1, metavar="T", help="Tokens of a row; longer ones are cut.", show_default="the model's"),
    ] = None,
    max_errors: Annotated[
        int | None,
        typer.Option("--task-max-errors", min=0, metavar="N", help="Lines that may be bad.", show_default="the task's"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Score the first N examples.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write results.json and samples_NAME.jsonl.")
    ] = None,
    tokenizer: Tokenizer = None,
    device: Device = None,
    batch_tokens: BatchTokens = None,
    nproc: Nproc = None,
    tp: Tp = 1,
    pp: Pp = 1,
    as_json: console.JSON = False,
) -> None:
    """Score a model that [cyan]mcc train --task[/] fine-tuned (or any with such a head) by its task's metrics.

    Example: [cyan]mcc eval task runs/mrpc --task mrpc --task-data glue/MRPC[/]

    Example: [cyan]mcc eval task bert-race --task race --task-data RACE --limit 500 --json[/]
    """
    from mcc.ckpt.source import Layout
    from mcc.eval.launch import on_ranks
    from mcc.eval.scorer import DEFAULT_BATCH_TOKENS

    found: list[dict[str, Any]] = on_ranks(
        score_task,
        nproc=nproc,
        layout=Layout(tp=tp, pp=pp),
        reporter=console.reporter,
        checkpoint=checkpoint,
        finetune={
            "task": name, "task_data": str(data), "text_a": text_a, "text_b": text_b, "label": label, "labels": labels,
            "task_metrics": metrics, "task_max_errors": max_errors,
        },
        seq_length=seq_length,
        limit=limit,
        out=out,
        tokenizer=tokenizer,
        device=device,
        batch_tokens=batch_tokens or DEFAULT_BATCH_TOKENS,
    )  # fmt: skip
    if as_json:
        console.print_json({"checkpoint": str(checkpoint), "task": name, "results": found})
        return
    rows = []
    for part in found:
        for i, (metric, value) in enumerate(part["metrics"].items()):
            first = (part["part"], part["examples"]) if i == 0 else (None, None)
            rows.append((*first, metric, value, part["seconds"] if i == 0 else None))
    console.table(f"{checkpoint} on {name}", ("part", "examples", "metric", "value", "seconds"), rows)


def score_task(
    checkpoint: Path,
    finetune: dict[str, Any],
    seq_length: int | None,
    limit: int | None,
    out: Path | None,
    tokenizer: Path | None,
    device: str | None,
    batch_tokens: int,
    layout: Layout,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """The scores of each part of a task's validation files. Collective; only the leader returns."""
    import json
    import time

    import numpy as np

    from mcc.core.errors import UsageError
    from mcc.core.files import atomic_path, write_text
    from mcc.eval.finetuned import metric, predict, require_head, serve
    from mcc.eval.loading import load
    from mcc.train.finetune.config import FinetuneConfig
    from mcc.train.finetune.encode import Encoder
    from mcc.train.finetune.files import Examples, scored_files
    from mcc.train.finetune.task import find_task

    given = finetune["task_data"] if not Path(finetune["task_data"]).is_dir() else None
    config = FinetuneConfig(**finetune, task_valid_data=given)
    chosen = find_task(config)
    allowed = chosen.max_errors if config.task_max_errors is None else config.task_max_errors
    files = {part: Examples(paths, chosen, allowed, reporter) for part, paths in scored_files(chosen, config).items()}
    loaded = load(checkpoint, tokenizer, device, reporter, layout, generates=False)
    require_head(loaded, chosen.head, len(chosen.labels) or 1)
    length = min(seq_length or loaded.model.config.positions, loaded.model.config.positions)
    if seq_length and seq_length > length:
        raise UsageError(f"--seq-length {seq_length} is more than the model's context of {length}")
    encoder = Encoder(loaded.tokenizer.to_json(), length, chosen.first_text_tokens)
    count = max(1, batch_tokens // (length * chosen.rows))
    results = []
    with loaded.leading(serve):
        for part, examples in files.items():
            start = time.perf_counter()
            total = min(len(examples), limit or len(examples))
            encoded = ([examples[i] for i in range(at, min(at + count, total))] for at in range(0, total, count))
            labels: list[float] = []

            def batches(encoded: Any = encoded, labels: list[float] = labels) -> Any:
                for group in encoded:
                    labels += [example.label for example in group]
                    rows = encoder(group)
                    # A batch is as wide as its longest row.
                    width = int(rows["padding"].sum(-1).max())
                    yield {name: np.ascontiguousarray(values[:, :width]) for name, values in rows.items()}

            outputs = predict(loaded, batches(), total * chosen.rows, reporter).reshape(total, -1)
            truth = np.array(labels, dtype=np.int64 if chosen.labels else np.float32)
            results.append(
                {
                    "part": part,
                    "examples": total,
                    "metrics": {name: metric(name, outputs, truth) for name in chosen.metrics},
                    "seconds": time.perf_counter() - start,
                }
            )
            if out is not None:
                suffix = chosen.name if len(files) == 1 else f"{chosen.name}_{part}"
                with atomic_path(out / f"samples_{suffix}.jsonl") as path, path.open("w", encoding="utf-8") as file:
                    for i in range(total):
                        said = {"rows": examples[i].rows, "label": labels[i], "outputs": outputs[i].tolist()}
                        file.write(json.dumps(said, ensure_ascii=False) + "\n")
    if out is not None:
        write_text(out / "results.json", json.dumps({"checkpoint": str(checkpoint), "parts": results}, indent=2) + "\n")
    return results
