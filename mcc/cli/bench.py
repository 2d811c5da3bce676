"""`mcc bench`: measurements of this machine and this code. A new one is one more command here."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mcc.cli import bench_eval, bench_network, bench_paper
from mcc.cli.blends import BlendCommand
from mcc.cli.console import JSON, print_json, reporter, table
from mcc.core.events import SILENT, Reporter, track

app = typer.Typer(help="Measure this machine and this code.", rich_markup_mode="rich")

# `mcc --help` may take this many times what importing typer takes; a bare typer application takes about 2.5.
STARTUP_BAR = 3.0

# What a typer application of this size costs without anything of ours.
_BARE = """
import typer
app = typer.Typer(pretty_exceptions_enable=False)
for name in "data ckpt train eval bench quickstart doctor".split():
    app.command(name, help="About " + name)(lambda: None)
app()
"""

_STARTS = {
    "python": ("-c", "pass"),
    "typer": ("-c", "import typer"),
    "bare": ("-c", _BARE, "--help"),
    "help": ("-c", "from mcc.cli.main import run; run()", "--help"),
}


@app.callback()
def _group() -> None:
    """A callback makes this a group however many commands it has."""


@app.command()
def startup(
    runs: Annotated[int, typer.Option(min=1, help="Starts of each program; the median counts.")] = 15,
    json: JSON = False,
) -> None:
    """Time `mcc --help` against `python -c "import typer"`.

    Example: mcc bench startup --runs 31
    """
    found = measure_startup(runs, reporter())
    if json:
        print_json(found)
        return
    names = {
        "python": "python -c pass",
        "typer": "python -c 'import typer'",
        "bare": "a bare typer application of this size, --help",
        "help": "mcc --help",
    }
    rows = [(text, 1000 * found[f"{key}_s"], found[f"{key}_s"] / found["typer_s"]) for key, text in names.items()]
    table(f"Start-up, median of {runs} (bar: {STARTUP_BAR:g} x typer)", ("program", "ms", "x typer"), rows)


def measure_startup(runs: int, reporter: Reporter = SILENT) -> dict[str, Any]:
    """Wall seconds of each start (`python_s`, `typer_s`, `bare_s`, `help_s`: medians) and `ratio` = help / typer.

    The programs take turns, so that a change of the machine's load touches all of them alike.
    """
    times: dict[str, list[float]] = {name: [] for name in _STARTS}
    for words in _STARTS.values():  # the first start reads from disk and writes .pyc files
        _seconds(words)
    for _ in track(range(runs), reporter, "starting", total=runs, unit="rounds"):
        for name, words in _STARTS.items():
            times[name].append(_seconds(words))
    found: dict[str, Any] = {f"{name}_s": statistics.median(seconds) for name, seconds in times.items()}
    ratio = found["help_s"] / found["typer_s"]
    return {**found, "ratio": ratio, "bar": STARTUP_BAR, "ok": ratio <= STARTUP_BAR, "runs": runs}


def _seconds(words: tuple[str, ...]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


@app.command()
def codecs(
    codec: Annotated[
        list[str] | None,
        typer.Option(metavar="CODEC[:key=value,...]", help="Codec to time; repeatable \\[a selection]."),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="ROWSxCOLUMNS", help="Tensor to code; repeatable \\[512x128, 1024x1920]."),
    ] = None,
    preset: Annotated[
        Literal["fig14"] | None, typer.Option(help="Shapes and ranks of Optimus-CC's figure 14, where not named.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where tensors are.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Times each is run; the median counts.")] = 30,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf.")] = None,
    json: JSON = False,
) -> None:
    """Time encoding and decoding beside a copy of the same tensor, plain torch, and low rank's own matmuls.

    Examples:

    mcc bench codecs --codec quantize:bits=4 --codec powersgd:rank=16 --shape 4096x1024

    mcc bench codecs --preset fig14 --plot fig14.png
    """
    shapes = [_shape(text) for text in shape or ()]
    from mcc.train.compress import bench

    if plot:
        bench.check_plot(plot)
    usual = (bench.FIG14_CODECS, bench.FIG14_SHAPES) if preset else (bench.DEFAULT_CODECS, bench.DEFAULT_SHAPES)
    chosen, sizes = codec or usual[0], shapes or usual[1]
    found = bench.measure(chosen, sizes, repeats, reporter(), device=device, threads=threads)
    if plot:
        bench.draw(found, plot)
    if json:
        print_json(found)
        return
    rows = [
        (
            *("x".join(map(str, f.shape)), f.codec, f.ratio, f.encode_gb_s, f.decode_gb_s, f.copy_gb_s),
            *(f.encode_of_copy, f.decode_of_copy, f.plain_encode_gb_s, f.plain_decode_gb_s),
            *(f.encode_of_matmul, f.decode_of_matmul),
        )
        for f in found
    ]
    columns = ("shape", "codec", "x smaller", "encode", "decode", "copy", "encode / copy", "decode / copy")
    more = ("plain encode", "plain decode", "encode / matmuls, time", "decode / matmul, time")
    table(f"Codecs on {device}, GB/s of fp32", (*columns, *more), rows)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if not all(part.isdigit() and int(part) for part in parts):
        raise typer.BadParameter(f"{text!r} is not ROWSxCOLUMNS", param_hint="--shape")
    return tuple(int(part) for part in parts)


app.command(epilog=bench_network.EPILOG, cls=BlendCommand)(bench_network.network)
app.command(epilog=bench_paper.EPILOG)(bench_paper.paper)
app.command("eval")(bench_eval.evaluation)
