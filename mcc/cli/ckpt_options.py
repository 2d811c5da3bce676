"""The options that the commands of `mcc ckpt` share, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcc.cli import console
from mcc.core.errors import UsageError

if TYPE_CHECKING:
    from mcc.ckpt.convert import Reading
    from mcc.ckpt.format import WriteReport

Source = Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint, or a training run's folder.")]
Output = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; it appears when it is complete.")]
From = Annotated[str | None, typer.Option("--from", metavar="FORMAT", help="Format of PATH, instead of detecting it.")]
Family = Annotated[
    str | None, typer.Option("--family", metavar="FAMILY", help="Model family of PATH, instead of detecting it.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse NaN and infinite numbers; without it there is a warning.")
]
Dtype = Annotated[
    str | None, typer.Option(metavar="DTYPE", help="float32, float16, bfloat16 or float64.", show_default="as stored")
]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")]
Version = Annotated[
    float | None,
    typer.Option(
        "--megatron-version",
        metavar="0|1|2|3",
        help="Megatron-LM's checkpoint version.",
        show_default="3, or as stored",
    ),
]
To = Annotated[
    str, typer.Option("--to", metavar="FORMAT", help="Format to write: acsgd, hf, mcc, mcc-safetensors, megatron.")
]
TP = Annotated[int, typer.Option("--tp", min=1, help="Tensor-parallel size.")]
PP = Annotated[int, typer.Option("--pp", min=1, help="Pipeline-parallel size.")]
VPP = Annotated[
    int, typer.Option("--vpp", min=1, help="Virtual stages: chunks of layers that each pipeline stage holds.")
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", metavar="N", min=0, help="Threads that read and convert tensors ahead of the one that is written."
    ),
]


def reading_of(source_format: str | None, family: str | None, strict: bool) -> Reading:
    """How PATH is to be read."""
    from mcc.ckpt.convert import Reading

    return Reading(format=source_format, family=family, strict=strict)


def version_of(version: float | None, to: str) -> float:
    """Megatron-LM's checkpoint version that is to be written.

    Raises:
        UsageError: one is given for another format, where it has no effect.
    """
    if version is not None and to != "megatron":
        raise UsageError(f"--megatron-version has no effect with --to {to}", "--to megatron")
    return 3.0 if version is None else version


def show(done: WriteReport, as_json: bool) -> None:
    """Print what was written."""
    if as_json:
        console.print_json(done)
    else:
        console.table(
            f"Wrote {done.path}",
            ("format", "tensors", "MB", "left out"),
            [(done.format, done.tensors, round(done.size_bytes / 1e6, 3), ", ".join(done.dropped) or "nothing")],
        )
