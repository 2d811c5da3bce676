"""What a run was: its resolved configuration, the version and commit of mcc, the seeds. Written beside the results."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mcc
from mcc.core.files import write_text

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "lm_eval")


def git_hash() -> str | None:
    """Commit of the checkout that mcc runs from, with `+changes` when files differ; None when it is not a checkout."""
    folder = Path(mcc.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True, timeout=10)
    return done.stdout.strip()


def describe(config: Mapping[str, Any], seeds: Mapping[str, int]) -> dict[str, Any]:
    """The record that `write` stores, as plain JSON values."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "mcc": mcc.__version__,
        "git": git_hash(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "command": sys.argv,
        "seeds": dict(seeds),
        "config": dict(config),
    }


def write(folder: str | Path, config: Mapping[str, Any], seeds: Mapping[str, int], name: str = "run.json") -> Path:
    """Write the record to `folder/name` and return its path."""
    path = Path(folder) / name
    write_text(path, json.dumps(describe(config, seeds), indent=2, default=str) + "\n")
    return path
