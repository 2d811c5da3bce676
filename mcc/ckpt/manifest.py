"""`mcc.json`: what stands beside the tensors in our own formats."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from mcc.ckpt.source import Layout, Meta
from mcc.core.config import build
from mcc.core.errors import MccError
from mcc.core.files import write_text
from mcc.models.base.config import ModelConfig

MANIFEST = "mcc.json"
VERSION = 1

# What Meta has a place for; everything else in the file is its `extra`.
_KNOWN = frozenset(("format", "version", "model", "iteration", "layout", "padded_vocab_size", "tokenizer"))


def read_format(folder: Path) -> str | None:
    """The `format` that `folder/mcc.json` names, None when there is no such file or it is not ours."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("format")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def read_manifest(folder: Path) -> Meta:
    """`folder/mcc.json` as a `Meta`.

    Raises:
        MccError: the file is missing, is not ours, is newer than this version, or names a tokenizer that is not there.
    """
    file = folder / MANIFEST
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = int(values["version"])
        if version > VERSION:
            raise MccError(f"version {version} is newer than this mcc, which knows {VERSION}", "use a newer mcc")
        config = build(ModelConfig, values["model"])
        layout = build(Layout, values.get("layout", {}))
        tokenizer = folder / str(values["tokenizer"]) if values.get("tokenizer") else None
        meta = Meta(
            config=config,
            iteration=int(values.get("iteration", 0)),
            layout=layout,
            padded_vocab_size=int(values.get("padded_vocab_size", config.vocab_size)),
            tokenizer=tokenizer,
            extra={key: value for key, value in values.items() if key not in _KNOWN},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise MccError(f"{file} is not a checkpoint's description: {error!r}") from error
    except MccError as error:
        raise MccError(f"{file}: {error.what}", error.hint) from error
    if tokenizer is not None and not tokenizer.is_file():
        raise MccError(f"{file} names the tokenizer {tokenizer.name}, which is missing", "put it back beside the file")
    return meta


def write_manifest(folder: Path, format: str, meta: Meta) -> None:
    """Write `meta` as `folder/mcc.json`; a tokenizer is named relative to `folder`."""
    values = {
        "format": format,
        "version": VERSION,
        "model": dataclasses.asdict(meta.config),
        "iteration": meta.iteration,
        "layout": dataclasses.asdict(meta.layout),
        "padded_vocab_size": meta.padded_vocab_size,
        "tokenizer": None if meta.tokenizer is None else meta.tokenizer.name,
        **meta.extra,
    }
    write_text(folder / MANIFEST, json.dumps(values, indent=2) + "\n")
