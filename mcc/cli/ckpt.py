"""`mcc ckpt`: checkpoints in any format inspected, merged, split, resharded, converted, pruned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcc.cli import ckpt_compare, console

if TYPE_CHECKING:
    from mcc.ckpt.convert import Reading
    from mcc.ckpt.format import WriteReport

app = typer.Typer(
    name="ckpt",
    help="Merge, split, convert and inspect checkpoints. A PATH is a checkpoint in any format, or a training run's "
    "folder, whose latest checkpoint is taken; the format is detected.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_Source = Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint, or a training run's folder.")]
_Output = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; it appears when it is complete.")]
_From = Annotated[str | None, typer.Option("--from", metavar="FORMAT", help="Format of PATH, instead of detecting it.")]
_Family = Annotated[
    str | None, typer.Option("--family", metavar="FAMILY", help="Model family of PATH, instead of detecting it.")
]
_Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse NaN and infinite numbers; without it there is a warning.")
]
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


@app.callback()
def _before() -> None:
    from mcc.core.pages import keep_pages

    keep_pages()


@app.command()
def inspect(
    path: _Source,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor too.")] = False,
    source_format: _From = None,
    family: _Family = None,
    as_json: console.JSON = False,
) -> None:
    """Show what a checkpoint is, without reading its tensors.

    Example: [cyan]mcc ckpt inspect runs/small --tensors[/]
    """
    from mcc.ckpt.summary import inspect
    from mcc.models.base.blueprint import LANGUAGE

    found = inspect(path, source_format, family)
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
    family: _Family = None,
    strict: _Strict = False,
    force: _Force = False,
    as_json: console.JSON = False,
) -> None:
    """Write a checkpoint, however it is cut, as one model: safetensors under global names, mcc.json, the tokenizer.

    Example: [cyan]mcc ckpt merge runs/small merged[/]
    """
    from mcc.ckpt.convert import merge

    done = merge(
        path,
        out,
        dtype=dtype,
        reading=_reading(source_format, family, strict),
        force=force,
        reporter=console.reporter(),
    )
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
    family: _Family = None,
    strict: _Strict = False,
    force: _Force = False,
    as_json: console.JSON = False,
) -> None:
    """Cut a checkpoint for TP x PP ranks. `mcc ckpt merge` is the inverse, byte for byte.

    Example: [cyan]mcc ckpt split merged out --tp 2 --pp 2 --to megatron --megatron-version 3[/]
    """
    from mcc.ckpt.convert import split
    from mcc.ckpt.format import WriteOptions

    options = WriteOptions(vpp=vpp, dtype=dtype, megatron_version=megatron_version)
    reading = _reading(source_format, family, strict)
    done = split(path, out, tp, pp, to, options, reading=reading, force=force, reporter=console.reporter())
    _show(done, as_json)


@app.command()
def reshard(
    path: _Source,
    out: _Output,
    tp: _TP,
    pp: _PP,
    vpp: _VPP = 1,
    megatron_version: Annotated[
        float | None,
        typer.Option("--megatron-version", metavar="0|1|2|3", help="Another version.", show_default="as stored"),
    ] = None,
    dtype: _Dtype = None,
    source_format: _From = None,
    family: _Family = None,
    strict: _Strict = False,
    force: _Force = False,
    as_json: console.JSON = False,
) -> None:
    """Cut a checkpoint for another layout, in its own format and with its optimizer state (mcc, megatron).

    Example: [cyan]mcc ckpt reshard runs/small wider --tp 4 --pp 1[/]
    """
    from mcc.ckpt.convert import reshard

    changes = {"vpp": vpp, "megatron_version": megatron_version, "dtype": dtype}
    reading = _reading(source_format, family, strict)
    done = reshard(path, out, tp, pp, changes, reading=reading, force=force, reporter=console.reporter())
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
    hf_bin: Annotated[
        bool, typer.Option("--hf-bin", help="Hugging Face: pytorch_model.bin instead of safetensors.")
    ] = False,
    source_format: _From = None,
    family: _Family = None,
    strict: _Strict = False,
    force: _Force = False,
    as_json: console.JSON = False,
) -> None:
    """Write a checkpoint in another format.

    Example: [cyan]mcc ckpt convert runs/small hf --to hf --dtype bfloat16[/]
    """
    from mcc.core.errors import UsageError

    if hf_bin and to != "hf":
        raise UsageError(f"--hf-bin has no effect with --to {to}", "--to hf")
    from mcc.ckpt.convert import convert
    from mcc.ckpt.format import WriteOptions

    options = WriteOptions(tp=tp, pp=pp, vpp=vpp, dtype=dtype, megatron_version=megatron_version, hf_bin=hf_bin)
    reading = _reading(source_format, family, strict)
    done = convert(path, out, to, options, reading=reading, force=force, reporter=console.reporter())
    _show(done, as_json)


@app.command()
def prune(
    path: _Source,
    out: _Output,
    average: Annotated[
        int, typer.Option("--average", metavar="K", min=1, help="Average the run's last K checkpoints, in float32.")
    ] = 1,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FORMAT", help="Format to write.", show_default="that of PATH")
    ] = None,
    dtype: _Dtype = None,
    source_format: _From = None,
    family: _Family = None,
    strict: _Strict = False,
    force: _Force = False,
    as_json: console.JSON = False,
) -> None:
    """Write the weights alone, without the optimizer: of one checkpoint, or the average of a run's last ones.

    Example: [cyan]mcc ckpt prune runs/small averaged --average 3[/]
    """
    from mcc.ckpt.prune import prune

    reading = _reading(source_format, family, strict)
    done = prune(
        path, out, average=average, to=to, dtype=dtype, reading=reading, force=force, reporter=console.reporter()
    )
    _show(done, as_json)


def _reading(source_format: str | None, family: str | None, strict: bool) -> Reading:
    from mcc.ckpt.convert import Reading

    return Reading(format=source_format, family=family, strict=strict)


def _show(done: WriteReport, as_json: bool) -> None:
    if as_json:
        console.print_json(done)
    else:
        console.table(
            f"Wrote {done.path}",
            ("format", "tensors", "MB", "left out"),
            [(done.format, done.tensors, round(done.size_bytes / 1e6, 3), ", ".join(done.dropped) or "nothing")],
        )


app.command()(ckpt_compare.diff)
app.command()(ckpt_compare.verify)
