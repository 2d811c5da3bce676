"""Flags that the commands of `mcc eval` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mcc.core.errors import unknown

Checkpoint = Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint, or a training run's folder.")]
Tokenizer = Annotated[
    Path | None, typer.Option("--tokenizer", metavar="FILE", help="Tokenizer.", show_default="the one beside CKPT")
]
Device = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, ...", show_default="a GPU")]
BatchTokens = Annotated[
    int | None,
    typer.Option("--batch-tokens", min=1, metavar="N", help="Most tokens of a forward pass; changes no score."),
]
_PANEL = "Several ranks"
Nproc = Annotated[
    int | None,
    typer.Option(
        "--nproc", min=1, metavar="N", help="Ranks to start on this machine; or start them with torchrun.",
        show_default="TP x PP", rich_help_panel=_PANEL,
    ),
]  # fmt: skip
Tp = Annotated[
    int, typer.Option("--tp", min=1, metavar="TP", help="Cut every layer among TP ranks.", rich_help_panel=_PANEL)
]
Pp = Annotated[
    int,
    typer.Option(
        "--pp", min=1, metavar="PP", help="Cut the layers into PP stages. Ranks beyond TP x PP share the requests.",
        rich_help_panel=_PANEL,
    ),
]  # fmt: skip
Codec = Annotated[
    str | None,
    typer.Option(
        "--codec",
        metavar="HOW",
        help="Of a model trained with compression: off: as if nothing had been compressed; on: through the codecs of "
        "what its run sent forward; both.",
        show_default="through those that are weights of the model",
        rich_help_panel=_PANEL,
    ),
]


def codec_ways(codec: str | None) -> dict[str, dict[str, Any]]:
    """`--codec` as settings of `mcc.eval.loading.load`, by the words that a title gets.

    Raises:
        UsageError: it is neither on, off nor both.
    """
    if codec not in (None, "on", "off", "both"):
        raise unknown("--codec", codec, ("on", "off", "both"))
    if codec is None:
        return {"": {}}
    from mcc.train.inference import forward_codecs

    ways: dict[str, dict[str, Any]] = {"off": {"trained": False}, "on": {"codecs": forward_codecs}}
    return ways if codec == "both" else {codec: ways[codec]}
