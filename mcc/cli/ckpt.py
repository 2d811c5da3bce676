"""`mcc ckpt`: checkpoints in any format inspected, merged, split, resharded, converted, pruned."""

from __future__ import annotations

from typing import Annotated

import typer

from mcc.cli import ckpt_compare, console
from mcc.cli import ckpt_options as shared

app = typer.Typer(
    name="ckpt",
    help="Merge, split, convert and inspect checkpoints. A PATH is a checkpoint in any format, or a training run's "
    "folder, whose latest checkpoint is taken; the format is detected.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.callback()
def _before() -> None:
    from mcc.core.pages import cheap_blocks

    cheap_blocks()


@app.command()
def inspect(
    path: shared.Source,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor too.")] = False,
    source_format: shared.From = None,
    family: shared.Family = None,
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
        ("tokenizer", found.tokenizer or "none"),
        ("optimizer state", ", ".join(found.optimizer) or "none"),
        *(("not read", what) for what in found.unread),
        # What is nested (a run's settings) is for --json.
        *(
            (name.replace("_", " "), value)
            for name, value in found.extra.items()
            if isinstance(value, (str, int, float)) and name != "has_optimizer"
        ),
    ]
    console.table(str(path), ("what", "value"), rows)
    if tensors:
        console.table(
            "Tensors", ("name", "shape", "dtype"), [(row.name, list(row.shape), row.dtype) for row in found.tensors]
        )


@app.command()
def merge(
    path: shared.Source,
    out: shared.Output,
    dtype: shared.Dtype = None,
    source_format: shared.From = None,
    family: shared.Family = None,
    strict: shared.Strict = False,
    workers: shared.Workers = 1,
    force: shared.Force = False,
    as_json: console.JSON = False,
) -> None:
    """Write a checkpoint, however it is cut, as one model: safetensors under global names, mcc.json, the tokenizer.

    Example: [cyan]mcc ckpt merge runs/small merged[/]
    """
    from mcc.ckpt.convert import merge
    from mcc.ckpt.format import WriteOptions

    options = WriteOptions(dtype=dtype, workers=workers)
    reading = shared.reading_of(source_format, family, strict)
    done = merge(path, out, options=options, reading=reading, force=force, reporter=console.reporter())
    shared.show(done, as_json)


@app.command()
def split(
    path: shared.Source,
    out: shared.Output,
    tp: shared.TP,
    pp: shared.PP,
    vpp: shared.VPP = 1,
    to: shared.To = "megatron",
    megatron_version: shared.Version = None,
    dtype: shared.Dtype = None,
    source_format: shared.From = None,
    family: shared.Family = None,
    strict: shared.Strict = False,
    workers: shared.Workers = 1,
    force: shared.Force = False,
    as_json: console.JSON = False,
) -> None:
    """Cut a checkpoint for TP x PP ranks. `mcc ckpt merge` is the inverse, byte for byte.

    Example: [cyan]mcc ckpt split merged out --tp 2 --pp 2 --to megatron --megatron-version 3[/]
    """
    from mcc.ckpt.convert import split
    from mcc.ckpt.format import WriteOptions

    version = shared.version_of(megatron_version, to)
    options = WriteOptions(vpp=vpp, dtype=dtype, megatron_version=version, workers=workers)
    reading = shared.reading_of(source_format, family, strict)
    done = split(path, out, tp, pp, to, options, reading=reading, force=force, reporter=console.reporter())
    shared.show(done, as_json)


@app.command()
def reshard(
    path: shared.Source,
    out: shared.Output,
    tp: shared.TP,
    pp: shared.PP,
    vpp: shared.VPP = 1,
    megatron_version: shared.Version = None,
    dtype: shared.Dtype = None,
    source_format: shared.From = None,
    family: shared.Family = None,
    strict: shared.Strict = False,
    workers: shared.Workers = 1,
    force: shared.Force = False,
    as_json: console.JSON = False,
) -> None:
    """Cut a checkpoint for another layout, in its own format and with its optimizer state (mcc, megatron).

    Example: [cyan]mcc ckpt reshard runs/small wider --tp 4 --pp 1[/]
    """
    from mcc.ckpt.convert import reshard

    changes = {"vpp": vpp, "megatron_version": megatron_version, "dtype": dtype, "workers": workers}
    reading = shared.reading_of(source_format, family, strict)
    done = reshard(path, out, tp, pp, changes, reading=reading, force=force, reporter=console.reporter())
    shared.show(done, as_json)


@app.command()
def convert(
    path: shared.Source,
    out: shared.Output,
    to: shared.To,
    dtype: shared.Dtype = None,
    tp: shared.TP = 1,
    pp: shared.PP = 1,
    vpp: shared.VPP = 1,
    megatron_version: shared.Version = None,
    hf_bin: Annotated[
        bool, typer.Option("--hf-bin", help="Hugging Face: pytorch_model.bin instead of safetensors.")
    ] = False,
    source_format: shared.From = None,
    family: shared.Family = None,
    strict: shared.Strict = False,
    workers: shared.Workers = 1,
    force: shared.Force = False,
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

    version = shared.version_of(megatron_version, to)
    options = WriteOptions(tp=tp, pp=pp, vpp=vpp, dtype=dtype, megatron_version=version, workers=workers, hf_bin=hf_bin)
    reading = shared.reading_of(source_format, family, strict)
    done = convert(path, out, to, options, reading=reading, force=force, reporter=console.reporter())
    shared.show(done, as_json)


@app.command()
def prune(
    path: shared.Source,
    out: shared.Output,
    average: Annotated[
        int, typer.Option("--average", metavar="K", min=1, help="Average the run's last K checkpoints, in float32.")
    ] = 1,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FORMAT", help="Format to write.", show_default="that of PATH")
    ] = None,
    dtype: shared.Dtype = None,
    source_format: shared.From = None,
    family: shared.Family = None,
    strict: shared.Strict = False,
    workers: shared.Workers = 1,
    force: shared.Force = False,
    as_json: console.JSON = False,
) -> None:
    """Write the weights alone, without the optimizer: of one checkpoint, or the average of a run's last ones.

    Example: [cyan]mcc ckpt prune runs/small averaged --average 3[/]
    """
    from mcc.ckpt.format import WriteOptions
    from mcc.ckpt.prune import prune

    reading = shared.reading_of(source_format, family, strict)
    options = WriteOptions(dtype=dtype, workers=workers)
    done = prune(path, out, options, average=average, to=to, reading=reading, force=force, reporter=console.reporter())
    shared.show(done, as_json)


app.command()(ckpt_compare.diff)
app.command()(ckpt_compare.verify)
