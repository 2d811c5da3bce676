"""`mcc bench eval`: scoring against the tools that are usual for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mcc.cli.console import JSON, print_json, reporter, table

# What the documentation promises on multiple choice: this many times lm_eval --model hf's speed.
SPEED_BAR = 1.5


def evaluation(
    checkpoint: Annotated[
        Path | None, typer.Argument(metavar="CKPT", help="What is scored.", show_default="a small random GPT-2")
    ] = None,
    task: Annotated[str, typer.Option("--task", metavar="NAME", help="Task of local files.")] = "hellaswag",
    task_file: Annotated[
        Path | None,
        typer.Option("--task-file", metavar="FILE", help="Its documents.", show_default="questions made for this"),
    ] = None,
    documents: Annotated[int, typer.Option(min=1, metavar="N", help="Documents to score.")] = 100,
    hf_batch: Annotated[int, typer.Option(min=1, metavar="B", help="Sequences of a batch of lm_eval's.")] = 16,
    prompts: Annotated[int, typer.Option(min=0, metavar="N", help="Prompts to continue; 0: none.")] = 8,
    new_tokens: Annotated[int, typer.Option(min=1, metavar="T", help="Tokens that follow each prompt.")] = 64,
    json: JSON = False,
) -> None:
    """Time multiple choice beside lm_eval --model hf, and greedy generation beside transformers.generate.

    Each is a process of its own; loading is not counted. Scores must be equal.

    Examples:

    mcc bench eval --documents 50

    mcc bench eval smollm2-135m --task lambada --task-file lambada_test.jsonl --documents 300
    """
    from mcc.eval.bench import bench_choices, bench_generation

    found = bench_choices(checkpoint, task, task_file, documents, hf_batch, reporter())
    written = bench_generation(checkpoint, prompts, new_tokens, reporter()) if prompts else None
    if json:
        choices = {**vars(found), "ours": vars(found.ours), "theirs": vars(found.theirs), "bar": SPEED_BAR}
        print_json({**choices, "generation": vars(written) if written else None})
        return
    rows = [
        (
            name,
            timing.seconds,
            timing.requests / timing.seconds,
            f"{timing.memory_bytes / 2**20:.0f} MiB",
            "  ".join(f"{metric} {value:.4g}" for metric, value in timing.metrics.items()),
        )
        for name, timing in (("lm_eval --model hf", found.theirs), ("mcc eval zero-shot", found.ours))
    ]
    title = f"{found.task}, {found.documents} documents, {found.model}"
    table(title, ("what", "seconds", "requests/s", "peak memory", "scores"), rows)
    print(f"{found.speedup:.2f} times as fast (bar: {SPEED_BAR:g}), {found.memory:.2f} of the memory; ", end="")
    print(f"log-likelihoods differ by {found.difference:.1e} at most")
    if written is None:
        return
    speeds = [
        ("transformers.generate", written.theirs_tokens_s, f"{written.theirs_memory_bytes / 2**20:.0f} MiB"),
        ("mcc eval generate", written.ours_tokens_s, f"{written.ours_memory_bytes / 2**20:.0f} MiB"),
    ]
    title = f"{written.new_tokens} greedy tokens after each of {written.prompts} prompts"
    table(title, ("what", "tokens/s", "peak memory"), speeds)
    print(f"{written.speedup:.2f} times as fast; {written.same} of {written.prompts} continued by the same tokens")
