"""`mcc train`: settings from a TOML file and flags to a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mcc.cli import console
from mcc.cli.blends import BlendCommand
from mcc.cli.options import flags
from mcc.core.config import plain, resolve
from mcc.train.config import TrainConfig

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_EPILOG = """Examples:

mcc train --data-path out/train_text_document --tokenizer out/tokenizer.json --save out/run

mcc train --model gpt2-345m --data-path out/train_text_document --tokenizer gpt2 --nproc 8 --save out/345m

mcc train small.toml --nproc 8 --tp 2 --pp 2 --compress pp.forward=quantize:bits=4

mcc train small.toml --nproc 4 --pp 4 --compress optimus-cc

torchrun --nproc-per-node 8 -m mcc train small.toml --tp 2 --pp 2 --resume
"""


# Megatron-LM's names of settings that are shorter here.
_ALIASES = {
    "parallel.tp": ("--tensor-model-parallel-size",),
    "parallel.pp": ("--pipeline-model-parallel-size",),
    "parallel.cp": ("--context-parallel-size",),
}


@app.command(epilog=_EPILOG, cls=BlendCommand)
@flags(TrainConfig, aliases=_ALIASES)
def train(
    *,
    config: Annotated[Path | None, typer.Argument(help="TOML file of settings; flags come on top of it.")] = None,
    nproc: Annotated[
        int | None,
        typer.Option(help="Ranks to start on this machine; without it, the ranks torchrun or Slurm started."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A model of --list-models; settings of the file and flags come on top of it."
        ),
    ] = None,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the resolved settings and stop.")] = False,
    list_models: Annotated[
        bool, typer.Option("--list-models", help="Print the models for --model with their sizes, and stop.")
    ] = False,
    list_codecs: Annotated[
        bool, typer.Option("--list-codecs", help="Print the codecs, their options and the sites, and stop.")
    ] = False,
    list_presets: Annotated[
        bool, typer.Option("--list-presets", help="Print the presets of compression for --compress, and stop.")
    ] = False,
    show_compress: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Print what a preset of --list-presets stands for, and stop."),
    ] = None,
    json: console.JSON = False,
    settings: dict[str, Any],
) -> None:
    """Train a language model, 3D-parallel, with compressed communication."""
    if list_presets or show_compress is not None:
        _print_presets(show_compress, json)
        return
    if list_codecs:
        _print_codecs(json)
        return
    if list_models:
        _print_models(json)
        return
    if model is not None:
        settings = _preset(model, config) | settings
    resolved = _with_presets(resolve(TrainConfig, config, settings), config, settings)
    if show_config:
        console.print_json(plain(resolved))
        return
    if nproc is not None and nproc < 1:
        raise typer.BadParameter(f"{nproc} ranks; at least 1 is needed", param_hint="--nproc")
    from mcc.train.launch import run
    from mcc.train.metrics import summary

    ran = run(resolved, nproc, console.reporter)
    if ran.run.save and _is_leader():
        result = {"save": ran.run.save, **summary(Path(ran.run.save))}
        if json:
            console.print_json(result)
        else:
            rows = [[key, value] for key, value in result.items() if not isinstance(value, (dict, list))]
            rows += [[f"bytes sent a step, {site}", n] for site, n in result["wire_bytes"].items()]
            console.table("Training", ["", ""], rows)
            if len(scores := result["scores"]) > 1:
                columns = list(scores[-1])
                console.table("Scores", columns, [[score.get(column) for column in columns] for score in scores])
            if measured := result.get("orthogonality"):
                columns = list(measured[0])
                console.table("Orthogonality of errors", columns, [list(entry.values()) for entry in measured])


def _is_leader() -> bool:
    from mcc.core.ranks import from_environment

    ranks = from_environment()
    return ranks is None or ranks.rank == 0


def _preset(name: str, file: Path | None) -> dict[str, Any]:
    """Settings of the model called `name`, but for those that the file has."""
    from mcc.core.config import read_toml
    from mcc.models.base import presets

    there = read_toml(file).get("model", {}) if file is not None else {}
    return {f"model.{key}": value for key, value in presets.values(name).items() if key not in there}


def _with_presets(resolved: TrainConfig, file: Path | None, flags: dict[str, Any]) -> TrainConfig:
    """`resolved` with presets of compression replaced; what the file or the flags set goes before what they need."""
    from mcc.core.config import read_toml
    from mcc.train.compress.presets import with_presets

    there = read_toml(file) if file is not None else {}
    sections = {f"{key}.{name}" for key, value in there.items() if isinstance(value, dict) for name in value}
    return with_presets(resolved, {*sections, *flags})


def _print_presets(name: str | None, json: bool) -> None:
    from mcc.train.compress import presets
    from mcc.train.compress.spec import parse

    found: list[dict[str, Any]] = [
        {
            "preset": key,
            "description": preset.description,
            "source": preset.source,
            "compress": [str(parse(text)) for text in preset.compress] if name else list(preset.compress),
            "settings": preset.settings,
        }
        for key in (presets.names() if name is None else [name])
        for preset in [presets.preset(key)]
    ]
    if json:
        console.print_json(found if name is None else found[0])
        return
    if name is not None:
        (only,) = found
        compress = "\n".join(f"--compress {text}" for text in only["compress"])
        needs = "\n".join(f"{path} = {value}" for path, value in only["settings"].items())
        rows = [["what", only["description"]], ["source", only["source"]], ["compress", compress]]
        console.table(name, ["", ""], rows + ([["settings", needs]] if needs else []))
        return
    rows = [[entry["preset"], entry["description"], "\n".join(entry["compress"])] for entry in found]
    console.table("Presets", ["preset", "does", "--compress"], rows)


def _print_models(json: bool) -> None:
    from mcc.models.base import presets
    from mcc.models.base.family import count_parameters

    found = {name: presets.preset(name) for name in presets.names()}
    if json:
        console.print_json(
            [
                {"model": name, "parameters": count_parameters(config), "source": presets.source(name), **plain(config)}
                for name, config in found.items()
            ]
        )
        return
    rows = [
        [
            *(name, config.family, count_parameters(config), config.num_layers, config.hidden_size),
            *(config.num_attention_heads, config.query_groups, config.seq_length, config.vocab_size),
            presets.source(name),
        ]
        for name, config in found.items()
    ]
    sizes = ["parameters", "layers", "hidden", "heads", "kv heads", "tokens", "vocabulary"]
    console.table("Models", ["model", "family", *sizes, "source"], rows)


def _print_codecs(json: bool) -> None:
    from mcc.core.config import settings as options_of
    from mcc.train.compress.codec import codecs
    from mcc.train.compress.sites import site_refusal
    from mcc.train.compress.spec import SITES

    found: list[dict[str, Any]] = [
        {
            "codec": name,
            "does": codecs.describe(name),
            "options": {s.name: {"default": s.default, "help": s.help} for s in options_of(cls.Options)},
            "sites": [
                site
                for site in SITES
                if (cls.refusal(site, cls.Options()) or site_refusal(site, name, cls, cls.Options())) is None
            ],
            "source": cls.source,
        }
        for name, cls in codecs.all()
    ]
    if json:
        console.print_json({"codecs": found, "sites": SITES})
        return
    rows = []
    for entry in found:
        options = [f"{key}={value['default']}" for key, value in entry["options"].items()]
        rows.append([entry["codec"], entry["does"], "\n".join(options), "\n".join(entry["sites"]), entry["source"]])
    console.table("Codecs", ["codec", "does", "options", "sites", "source"], rows)
    console.table("Sites", ["site", "carries"], [[site, what] for site, what in SITES.items()])
