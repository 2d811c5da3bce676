"""`mcc ckpt`: checkpoints in any format inspected, merged, split, converted, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcc.cli import console
from mcc.core.errors import MccError

if TYPE_CHECKING:
    from mcc.ckpt.format import WriteReport

app = typer.Typer(
    name="ckpt",
    help="Merge, split, convert and inspect checkpoints. A PATH is a checkpoint in any format, or a training run's "
    "folder, whose latest checkpoint is taken; the format is detected.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

# More differing tensors than this are for --json.
_SHOWN_DIFFERENCES = 20

_Source = Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint, or a training run's folder.")]
_Output = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; it appears when it is complete.")]
_From = Annotated[str | None, typer.Option("--from", metavar="FORMAT", help="Format of PATH, instead of detecting it.")]
_Dtype = Annotated[
    str | None, typer.Option(metavar="DTYPE", help="float32, float16, bfloat16 or float64.", show_default="as stored")
]
_Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")]
_Version = Annotated[
    float, typer.Option("--megatron-version", metavar="0|1|2|3", help="Megatron-LM's checkpoint version.")
]
_To = Annotated[
    str, typer.Option("--to", metavar="FORMAT", help="Format to write: acsgd, hf, mcc, mcc-safetensors, megatron.")
]
_TP = Annotated[int, typer.Option("--tp", min=1, help="Tensor-parallel size.")]
_PP = Annotated[int, typer.Option("--pp", min=1, help="Pipeline-parallel size.")]
_VPP = Annotated[
    int, typer.Option("--vpp", min=1, help="Virtual stages: chunks of layers that each pipeline stage holds.")
]


@app.command()
def inspect(
    path: _Source,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor too.")] = False,
    source_format: _From = None,
    as_json: console.JSON = False,
) -> None:
    """Show what a checkpoint is, without reading its tensors.

    Example: [cyan]mcc ckpt inspect runs/small --tensors[/]
    """
    from mcc.ckpt.summary import inspect
    from mcc.models.base.blueprint import LANGUAGE

    found = inspect(path, source_format)
    if as_json:
        import dataclasses

        values = dataclasses.asdict(found)
        console.print_json(values if tensors else {key: value for key, value in values.items() if key != "tensors"})
        return
    config, layout = found.config, found.layout
    vocabulary = f"{config.vocab_size:,}" + (
        f", padded to {found.padded_vocab_size:,}" if found.padded_vocab_size != config.vocab_size else ""
    )
    rows = [
        ("format", found.format),
        ("family", config.family),
        ("parameters", f"{found.parameters:,} ({found.size_bytes / 1e6:,.1f} MB)"),
        ("dtypes", ", ".join(f"{name} ({count} tensors)" for name, count in found.dtypes.items())),
        ("layers", config.num_layers),
        ("hidden size", config.hidden_size),
        ("attention heads", config.num_attention_heads),
        *([("key/value heads", config.query_groups)] if config.query_groups != config.num_attention_heads else []),
        ("ffn size", config.ffn_size),
        ("context", config.seq_length),
        ("vocabulary", vocabulary),
        ("head", config.head),
        *([("output layer", "tied to the embedding" if found.tied else "its own")] if config.head in LANGUAGE else []),
        (
            "layout",
            f"TP {layout.tp} x PP {layout.pp}"
            + (f" x VPP {layout.vpp}" if layout.vpp > 1 else "")
            + f" x DP {layout.dp}",
        ),
        ("iteration", found.iteration),
        ("tokenizer", found.tokenizer),
        ("optimizer state", ", ".join(found.optimizer) or "none"),
        # What is nested (a run's settings) is for --json.
        *(
            (name.replace("_", " "), value)
            for name, value in found.extra.items()
            if isinstance(value, (str, int, float))
        ),
    ]
    console.table(str(path), ("what", "value"), rows)
    if tensors:
        console.table(
            "Tensors", ("name", "shape", "dtype"), [(row.name, list(row.shape), row.dtype) for row in found.tensors]
        )


@app.command()
def merge(
    path: _Source,
    out: _Output,
    dtype: _Dtype = None,
    source_format: _From = None,
    force: _Force = False,
    as_json: console.JSON = False,
) -> None:
    """Write a checkpoint, however it is cut, as one model: safetensors under global names, mcc.json, the tokenizer.

    Example: [cyan]mcc ckpt merge runs/small merged[/]
    """
    from mcc.ckpt.convert import merge

    done = merge(path, out, dtype=dtype, source_format=source_format, force=force, reporter=console.reporter())
    _show(done, as_json)


@app.command()
def split(
    path: _Source,
    out: _Output,
    tp: _TP,
    pp: _PP,
    vpp: _VPP = 1,
    to: _To = "megatron",
    megatron_version: _Version = 3.0,
    dtype: _Dtype = None,
    source_format: _From = None,
    force: _Force = False,
    as_json: console.JSON = False,
) -> None:
    """Cut a checkpoint for TP x PP ranks. `mcc ckpt merge` is the inverse, byte for byte.

    Example: [cyan]mcc ckpt split merged out --tp 2 --pp 2 --to megatron --megatron-version 3[/]
    """
    from mcc.ckpt.convert import split
    from mcc.ckpt.format import WriteOptions

    options = WriteOptions(vpp=vpp, dtype=dtype, megatron_version=megatron_version)
    done = split(path, out, tp, pp, to, options, source_format=source_format, force=force, reporter=console.reporter())
    _show(done, as_json)


@app.command()
def convert(
    path: _Source,
    out: _Output,
    to: _To,
    dtype: _Dtype = None,
    tp: _TP = 1,
    pp: _PP = 1,
    vpp: _VPP = 1,
    megatron_version: _Version = 3.0,
    source_format: _From = None,
    force: _Force = False,
    as_json: console.JSON = False,
) -> None:
    """Write a checkpoint in another format.

    Example: [cyan]mcc ckpt convert runs/small hf --to hf --dtype bfloat16[/]
    """
    from mcc.ckpt.convert import convert
    from mcc.ckpt.format import WriteOptions

    options = WriteOptions(tp=tp, pp=pp, vpp=vpp, dtype=dtype, megatron_version=megatron_version)
    done = convert(path, out, to, options, source_format=source_format, force=force, reporter=console.reporter())
    _show(done, as_json)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, in any format and layout.")],
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest absolute difference that counts as equal.")] = 0.0,
    as_json: console.JSON = False,
) -> None:
    """Compare two checkpoints tensor by tensor. Exit code 1 when a difference is over the tolerance.

    Example: [cyan]mcc ckpt diff runs/small megatron --tolerance 1e-6[/]
    """
    from mcc.ckpt.convert import diff

    found = diff(a, b, console.reporter())
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
        rows += [
            (name, None, None, f"only in {side}")
            for side, names in ((a, found.only_a), (b, found.only_b))
            for name in names
        ]
        title = f"{len(found.tensors)} tensors compared, {len(found.tensors) - len(shown)} identical"
        if len(shown) > _SHOWN_DIFFERENCES:
            title += f"; the {_SHOWN_DIFFERENCES} that differ most"
        console.table(title, ("tensor", "max abs", "max rel", "note"), rows)
    if missing:
        raise MccError(f"{len(missing)} tensors are in one checkpoint only, {missing[0]} for one")
    if over:
        raise MccError(f"{len(over)} tensors differ by up to {found.max_abs:.4g}: over the tolerance {tolerance:g}")


@app.command()
def verify(
    path: _Source,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="PATH", help="The checkpoint to compare with.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest difference between logits that passes.")] = 1e-4,
    as_json: console.JSON = False,
) -> None:
    """Run two checkpoints on fixed tokens and compare their logits; Hugging Face folders run in transformers.

    A Hugging Face folder alone is compared with itself: mcc's model against transformers'. A checkpoint of training
    alone has its files compared with the checksums beside them (with --against, too). Exit code 1 when a file is not
    as it was written, or a difference is over the tolerance.

    Example: [cyan]mcc ckpt verify runs/small --against hf[/]
    """
    from mcc.ckpt.verify import verify, verify_files

    files = verify_files(path) if against is None else None
    if files is not None:
        if as_json:
            console.print_json(files)
        else:
            size = round(files.size_bytes / 1e6, 3)
            console.table(f"{files.path}: as it was written", ("files", "MB"), [(files.files, size)])
        return
    found = verify(path, against, tolerance)
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


def _show(done: WriteReport, as_json: bool) -> None:
    if as_json:
        console.print_json(done)
    else:
        console.table(
            f"Wrote {done.path}",
            ("format", "tensors", "MB", "left out"),
            [(done.format, done.tensors, round(done.size_bytes / 1e6, 3), ", ".join(done.dropped) or "nothing")],
        )
