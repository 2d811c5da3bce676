"""Other people's `torch.save` files, read without running anything of theirs.

torch's restricted unpickler knows tensors and plain containers. To those we add `argparse.Namespace` (Megatron-LM's
arguments) and, for classes of the training systems that the files mention, stand-ins that remember nothing and do
nothing. Every other name is refused before the file is unpickled.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from mcc.core.errors import MccError

# Packages whose classes a checkpoint may mention: enums, loss scalers, random states. None of it is weights.
_INERT = ("megatron", "apex", "deepspeed", "transformer_engine", "fp16", "numpy")

# What torch's restricted unpickler knows outside its own package, where it decides itself.
_PLAIN = {
    *("argparse.Namespace", "collections.OrderedDict", "collections.Counter", "_codecs.encode"),
    *("builtins.bytearray", "builtins.set", "builtins.complex"),
}


class _StandIn:
    """Takes the place of a foreign class: accepts any arguments and any state, and keeps none."""

    def __new__(cls, *args: object, **kwargs: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def load_foreign(file: Path) -> Any:
    """The object in `file`, its tensors memory-mapped where the file's format allows it.

    Raises:
        MccError: the file is missing, truncated, or mentions a name that is not known; then nothing of it was run.
    """
    inert = require_known(file)
    allowed = [(Namespace, "argparse.Namespace"), *((stand_in(name), name) for name in inert)]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise MccError(f"{file} is refused: {reason(error)}", "only tensors and plain values are read") from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise MccError(f"{file} cannot be read (truncated?): {reason(error)}") from error


def require_known(file: Path) -> list[str]:
    """Refuse a file that mentions names which no checkpoint needs; the names whose classes are to be stand-ins.

    Raises:
        MccError: the file is missing or truncated, or mentions such a name. Nothing of it was run.
    """
    if not file.is_file():
        raise MccError(f"missing file {file}")
    names = _mentioned(file)
    foreign = sorted(name for name in names - _PLAIN if not name.startswith("torch."))
    inert = [name for name in foreign if may_stand_in(name)]
    refused = [name for name in foreign if name not in inert]
    if refused:
        raise MccError(
            f"{file} mentions {', '.join(refused)}, which no checkpoint needs: refused, and nothing of it was run",
            "this file may be hostile; ask whoever gave it to you",
        )
    return inert


def known_name(module: str, name: str) -> tuple[str, str]:
    """A class's module and name with the renaming since Python 2 that unpickling does."""
    return _NAMES.get((module, name), (_MODULES.get(module, module), name))


def may_stand_in(name: str) -> bool:
    """Whether a class of that name is one of the training systems' that files mention."""
    return name.partition(".")[0] in _INERT


def stand_in(name: str) -> type[_StandIn]:
    """A class called `name` whose objects are and do nothing."""
    return type(name.rpartition(".")[2], (_StandIn,), {})


def reason(error: BaseException) -> str:
    """What went wrong with a file, in one line and in torch's words."""
    text = str(error).strip()
    # torch's advice to load the file unrestricted must not reach a user.
    refused = next((line for line in text.splitlines() if line.startswith("Trying to load")), "")
    return refused or text.partition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or text.partition("\n")[0]


def _begins_as_archive(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(4) == b"PK\3\4"
    except OSError:
        return False


def _mentioned(file: Path) -> set[str]:
    """Every `module.name` that the pickles of `file` would import, found without unpickling."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
            if not pickles:
                raise MccError(f"{file} is a zip archive without data.pkl: not a torch.save file")
            return set().union(*map(_globals, pickles))
        # The format before torch 1.6: pickles one after the other (magic, version, system, object, keys), then bytes.
        found: set[str] = set()
        with file.open("rb") as stream:
            for _ in range(5):
                found |= _globals_of_stream(stream)
        return found
    except OSError as error:
        raise MccError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, IndexError, UnicodeDecodeError) as error:
        if _begins_as_archive(file):
            # Without a hint: who knows the tensors tells which are in it.
            raise MccError(f"{file} is truncated: its end, where torch.save lists the tensors, is missing") from error
        raise MccError(f"{file} is not a torch.save file, or is truncated: {error}") from error


def _globals(data: bytes) -> set[str]:
    return _globals_of_stream(io.BytesIO(data))


def _globals_of_stream(stream: Any) -> set[str]:
    found: set[str] = set()
    strings: list[str] = []
    for opcode, value, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            module, _, name = str(value).partition(" ")
            found.add(".".join(known_name(module, name)))
        elif opcode.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]))
        elif isinstance(value, str):
            strings.append(value)
    return found


def _compat() -> tuple[dict[tuple[str, str], tuple[str, str]], dict[str, str]]:
    import _compat_pickle

    return _compat_pickle.NAME_MAPPING, _compat_pickle.IMPORT_MAPPING


_NAMES, _MODULES = _compat()
