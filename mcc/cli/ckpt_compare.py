"""`mcc ckpt diff` and `verify`: two checkpoints compared by their tensors, by what they compute, by their checksums."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mcc.cli import console
from mcc.core.errors import MccError, UsageError

# More differing tensors than this are for --json.
_SHOWN_DIFFERENCES = 20

_Family = Annotated[
    str | None, typer.Option("--family", metavar="FAMILY", help="Model family, instead of detecting it.")
]


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, in any format and layout.")],
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest absolute difference that counts as equal.")] = 0.0,
    optimizer: Annotated[bool, typer.Option("--optimizer", help="The optimizer's state too.")] = False,
    from_a: Annotated[
        str | None, typer.Option("--from", metavar="FORMAT", help="Format of A, instead of detecting it.")
    ] = None,
    from_b: Annotated[
        str | None, typer.Option("--from-b", metavar="FORMAT", help="Format of B, instead of detecting it.")
    ] = None,
    family: _Family = None,
    as_json: console.JSON = False,
) -> None:
    """Compare two checkpoints tensor by tensor. Exit code 1 when a difference is over the tolerance.

    Example: [cyan]mcc ckpt diff runs/small megatron --tolerance 1e-6[/]
    """
    from mcc.ckpt.diff import diff
    from mcc.ckpt.format import open_checkpoint

    sides = open_checkpoint(a, from_a, family), open_checkpoint(b, from_b, family)
    found = diff(*sides, console.reporter(), optimizer=optimizer)
    over = [row for row in found.tensors if row.max_abs > tolerance]
    missing = (*found.only_a, *found.only_b)
    if as_json:
        console.print_json(
            {
                "max_abs": found.max_abs,
                "max_rel": found.max_rel,
                "tolerance": tolerance,
                "equal": not over and not missing,
                "only_a": found.only_a,
                "only_b": found.only_b,
                "tensors": found.tensors,
            }
        )
    else:
        shown = sorted((row for row in found.tensors if row.max_abs or row.note), key=lambda row: -row.max_abs)
        rows: list[tuple[object, ...]] = [
            (row.name, row.max_abs, row.max_rel, row.note) for row in shown[:_SHOWN_DIFFERENCES]
        ]
        for side, names in ((a, found.only_a), (b, found.only_b)):
            rows += [(name, None, None, f"only in {side}") for name in names[:_SHOWN_DIFFERENCES]]
            if len(names) > _SHOWN_DIFFERENCES:
                rows.append((f"... and {len(names) - _SHOWN_DIFFERENCES} more", None, None, f"only in {side}"))
        title = f"{len(found.tensors)} tensors compared, {len(found.tensors) - len(shown)} identical"
        if len(shown) > _SHOWN_DIFFERENCES:
            title += f"; the {_SHOWN_DIFFERENCES} that differ most"
        console.table(title, ("tensor", "max abs", "max rel", "note"), rows)
    if missing:
        raise MccError(f"{len(missing)} tensors are in one checkpoint only, {missing[0]} for one")
    if over:
        raise MccError(f"{len(over)} tensors differ by up to {found.max_abs:.4g}: over the tolerance {tolerance:g}")


def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint, or a training run's folder.")],
    against: Annotated[
        Path | None, typer.Option("--against", metavar="PATH", help="The checkpoint to compare with.")
    ] = None,
    checksums: Annotated[
        bool, typer.Option("--checksums", help="Compare the files with the checksums beside them, and nothing else.")
    ] = False,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest difference between logits that passes.")] = 1e-4,
    source_format: Annotated[
        str | None, typer.Option("--from", metavar="FORMAT", help="Format of PATH, instead of detecting it.")
    ] = None,
    family: _Family = None,
    as_json: console.JSON = False,
) -> None:
    """Run two checkpoints on fixed tokens and compare their logits; Hugging Face folders run in transformers.

    A Hugging Face folder alone is compared with itself: mcc's model against transformers'. With --checksums, and for a
    checkpoint of training alone, every file is read and compared with the checksum beside it (with --against, too).
    Exit code 1 when a file is not as it was written, or a difference is over the tolerance.

    Example: [cyan]mcc ckpt verify runs/small --against hf[/]
    """
    from mcc.ckpt.convert import Reading
    from mcc.ckpt.verify import verify, verify_files

    if checksums and against is not None:
        raise UsageError("--checksums looks at files, --against at what models compute", "give one of them")
    reading = Reading(format=source_format, family=family)
    files = verify_files(path, reading, required=checksums) if against is None else None
    if files is not None:
        if as_json:
            console.print_json(files)
        else:
            size = round(files.size_bytes / 1e6, 3)
            console.table(f"{files.path}: as it was written", ("files", "MB"), [(files.files, size)])
        return
    found = verify(path, against, tolerance, reading)
    if as_json:
        console.print_json(found)
    else:
        losses = found.losses or (None, None)
        rows = [(found.path, found.runs[0], losses[0]), (found.against, found.runs[1], losses[1])]
        console.table(
            f"Logits of {found.tokens} tokens differ by at most {found.max_abs_diff:.3g} (tolerance {tolerance:g})",
            ("checkpoint", "run by", "loss on random tokens"),
            rows,
        )
    if not found.passed:
        raise MccError(f"logits differ by up to {found.max_abs_diff:.4g}: over the tolerance {tolerance:g}")
