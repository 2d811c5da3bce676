"""`checksums.json` beside a checkpoint's files: their sizes and CRC-32 (the one of zip), to find what broke on the way.

{"algorithm": "crc32", "files": {"__0_0.distcp": {"bytes": 1234, "crc32": "0a1b2c3d"}, ...}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from isal.isal_zlib import crc32

from mcc.core.errors import MccError
from mcc.core.files import write_text

CHECKSUMS = "checksums.json"
_CHUNK = 1 << 22
_KIND = "crc32"

Sums = dict[str, dict[str, Any]]


def digest(file: Path) -> dict[str, Any]:
    """A file's size in bytes and its checksum.

    Raises:
        OSError: it cannot be read.
    """
    found, size = 0, 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            found, size = crc32(chunk, found), size + len(chunk)
    return {"bytes": size, _KIND: f"{found:08x}"}


def write_sums(folder: Path, sums: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the checksums of a folder's files with them."""
    ordered = {name: sums[name] for name in sorted(sums)}
    write_text(folder / CHECKSUMS, json.dumps({"algorithm": _KIND, "files": ordered}, indent=1) + "\n")


def add_sums(folder: Path, known: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write the checksums of everything in `folder`; files of `known` checksums are not read again."""
    sums = dict(known or {})
    rest = (file for file in folder.iterdir() if file.name != CHECKSUMS and file.name not in sums)
    write_sums(folder, {**sums, **{file.name: digest(file) for file in rest}})


def read_sums(folder: Path) -> Sums | None:
    """The checksums of a folder's files, or None where none were kept.

    Raises:
        MccError: the file cannot be understood.
    """
    file = folder / CHECKSUMS
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        kind, sums = values["algorithm"], values["files"]
        well_formed = all(isinstance(entry["bytes"], int) and isinstance(entry[kind], str) for entry in sums.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise MccError(f"{file} is damaged: {error!r}") from error
    if kind != _KIND or not well_formed:
        raise MccError(f"{file} has checksums of the kind {kind!r}, not {_KIND}", "use a newer mcc")
    return dict(sums)


def problem(folder: Path, sums: Sums, names: Iterable[str]) -> str | None:
    """What is wrong with the first of the files `names` that is not as it was written; None when all are."""
    for name in names:
        file, expected = folder / name, sums[name]
        if Path(name).name != name:
            return f"{folder / CHECKSUMS} names {name}, which is not a file of its folder"
        if not file.is_file():
            return f"missing file {file}"
        size = file.stat().st_size
        if size != expected["bytes"]:
            return f"{file} has {size} bytes, not the {expected['bytes']} that were written"
        try:
            found = digest(file)
        except OSError as error:
            return f"{file} cannot be read: {error.strerror}"
        if found != expected:
            return f"{file} is damaged: its {_KIND} is {found[_KIND]}, not {expected[_KIND]}"
    return None


def check(folder: Path) -> tuple[int, int] | None:
    """Read every file of a checkpoint: how many there are, and their bytes; None where no checksums were kept.

    Raises:
        MccError: a file is not as it was written; the message names it.
    """
    sums = read_sums(folder)
    if sums is None:
        return None
    wrong = problem(folder, sums, sums)
    if wrong:
        raise MccError(wrong, "take an earlier checkpoint, or copy this one again")
    return len(sums), sum(entry["bytes"] for entry in sums.values())
