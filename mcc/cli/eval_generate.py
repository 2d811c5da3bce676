"""`mcc eval generate`: continuations of prompts, one at a time in a terminal or a file of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcc.cli import console
from mcc.cli.eval_options import Checkpoint, Codec, Device, Nproc, Pp, Tokenizer, Tp, codec_ways
from mcc.core.errors import UsageError

if TYPE_CHECKING:
    from mcc.eval.generation.records import Completion

_PROMPTS, _CHOICE = "Prompts and results", "How tokens are chosen"


def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", metavar="TEXT", help="A text to go on from; again for more.", rich_help_panel=_PROMPTS
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="JSONL with a prompt in each record, or a text with one a line.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    field: Annotated[
        str, typer.Option("--field", metavar="NAME", help="Field of a record's prompt.", rich_help_panel=_PROMPTS)
    ] = "prompt",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write JSONL, a record a continuation.", rich_help_panel=_PROMPTS),
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(
            "--num-samples",
            min=1,
            metavar="N",
            help="Continuations of each prompt; without one, texts of their own.",
            rich_help_panel=_PROMPTS,
            show_default="1",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", min=1, metavar="N", help="Most tokens of each.", show_default="64"),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="End a continuation before this; repeatable."),
    ] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on where the model ends a text.")] = False,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            min=0.0,
            metavar="T",
            help="Draw tokens, scores divided by T; 0 is greedy.",
            rich_help_panel=_CHOICE,
            show_default="greedy",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", min=1, metavar="K", help="Draw among the K likeliest.", rich_help_panel=_CHOICE),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p",
            metavar="P",
            help="Draw among the likeliest with together this probability.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    repetition_penalty: Annotated[
        float,
        typer.Option(
            "--repetition-penalty",
            metavar="X",
            help="Above 1: make what the text has already less likely.",
            rich_help_panel=_CHOICE,
        ),
    ] = 1.0,
    beams: Annotated[
        int, typer.Option("--beams", min=1, metavar="N", help="Beam search with N beams.", rich_help_panel=_CHOICE)
    ] = 1,
    length_penalty: Annotated[
        float,
        typer.Option(
            "--length-penalty",
            metavar="X",
            help="A beam's score: log-likelihood / tokens ** X.",
            rich_help_panel=_CHOICE,
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the draws.", rich_help_panel=_CHOICE)] = 1234,
    tokenizer: Tokenizer = None,
    device: Device = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option("--batch-tokens", min=1, metavar="N", help="Most tokens kept at a time; changes no text."),
    ] = None,
    nproc: Nproc = None,
    tp: Tp = 1,
    pp: Pp = 1,
    codec: Codec = None,
    as_json: console.JSON = False,
) -> None:
    """Continue texts: greedily, by drawing tokens, or by beam search.

    Without a prompt and without [cyan]--num-samples[/] prompts are asked for, or read from a pipe, a line each.

    Example: [cyan]mcc eval generate runs/small --prompt "The river" --max-new-tokens 40[/]

    Example: [cyan]mcc eval generate runs/small --prompts prompts.jsonl --temperature 0.8 --top-p 0.95 --out texts.jsonl[/]

    Example: [cyan]mcc eval generate runs/small --num-samples 5 --seed 7[/]
    """  # noqa: E501
    from mcc.ckpt.source import Layout
    from mcc.eval.generation import generate as library
    from mcc.eval.generation.decoding import Decoding
    from mcc.eval.generation.records import Prompt, read_prompts
    from mcc.eval.launch import on_ranks

    if prompt and prompts is not None:
        raise UsageError("--prompt with --prompts: which of them?", "put all prompts into the file")
    if prompts is None and field != "prompt":
        raise UsageError("--field is of the records of --prompts FILE")
    given = [Prompt(text) for text in prompt or []]
    if prompts is not None:
        given = read_prompts(prompts, field)
    asks = not given and num_samples is None
    if not given and not asks:
        given = [Prompt()]
        if temperature is None and top_k is None and top_p is None and beams == 1:
            temperature = 1.0  # texts of their own: the likeliest one alone says little
    decoding = Decoding(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        repetition_penalty=repetition_penalty, beams=beams, length_penalty=length_penalty,
        num_samples=num_samples or 1, stop=tuple(stop or ()), ignore_eos=ignore_eos, seed=seed,
    )  # fmt: skip
    if codec == "both":
        raise UsageError("--codec both would make two sets of texts", "--codec on, --codec off")
    (through,) = codec_ways(codec).values()
    settings: dict[str, Any] = {
        **through,
        "checkpoint": checkpoint, "decoding": decoding, "tokenizer": tokenizer, "device": device,
        "batch_tokens": batch_tokens or library.DEFAULT_BATCH_TOKENS,
        "nproc": nproc, "layout": Layout(tp=tp, pp=pp), "reporter": console.reporter,
    }  # fmt: skip
    if asks:
        if out is not None or as_json:
            raise UsageError(f"{'--out' if out else '--json'} needs prompts", "--prompt TEXT, --prompts FILE")
        from mcc.eval.generation.interactive import interact

        on_ranks(interact, ask=ask, stream=write, **settings)
        return
    streams = len(given) == 1 and decoding.num_samples == 1 and beams == 1 and not as_json
    report = on_ranks(
        library.generate, prompts=given, out=out, stream=write if streams else None, **settings
    )  # fmt: skip
    if as_json:
        console.print_json(
            {
                "checkpoint": report.checkpoint,
                "texts": [completion.record() for completion in report.completions],
                "new_tokens": report.new_tokens,
                "seconds": report.seconds,
            }
        )
    elif streams:
        write("\n")
    else:
        _print(report.completions)


def ask() -> str | None:
    """The next prompt from stdin; None when there is none."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        try:
            return input("> ")
        except EOFError:
            write("\n")
            return None
    line = sys.stdin.readline()
    return line.rstrip("\r\n") if line else None


def write(text: str) -> None:
    """Text on stdout at once. A terminal gets no control characters: a model may make any of them."""
    if sys.stdout.isatty():
        text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    sys.stdout.write(text)
    sys.stdout.flush()


def _print(completions: Sequence[Completion]) -> None:
    for completion in completions:
        if len(completions) > 1:
            what = f"prompt {completion.number + 1}, sample {completion.sample + 1}"
            write(f"--- {what}: {len(completion.tokens)} tokens, {completion.finish}\n")
        write(f"{completion.prompt.text}{completion.text}\n")
