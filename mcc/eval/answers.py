"""What was scored already, kept in a file as it comes: an interrupted evaluation goes on where it ended.

{"key": "4f0c...", "value": [-7.1, false]}      one line each; the key is of the model's content and of the request
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn

from mcc.core.errors import MccError

FILE = "cache.jsonl"
_OFTEN = 32  # answers between two writes


class Answers:
    """The answers of one model.

    Args:
        file: where they are kept; None: nowhere.
        model: what tells the model from others.

    Raises:
        MccError: the file cannot be written.
    """

    def __init__(self, file: Path | None = None, model: str = "") -> None:
        self._model = model
        self._values: dict[str, Any] = {}
        self._file: TextIO | None = None
        self._unsaved = 0
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            whole = not file.exists() or self._read(file)
            self._file = file.open("a", encoding="utf-8")
        except OSError as error:
            raise MccError(f"cannot write {file}: {error.strerror}", "choose another --out") from error
        if not whole:
            self._file.write("\n")

    def _read(self, file: Path) -> bool:
        """Whether the last line is whole: it is cut short where an evaluation was ended."""
        line = b"\n"
        with file.open("rb") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                    self._values[entry["key"]] = entry["value"]
                except (ValueError, TypeError, KeyError):
                    continue
        return line.endswith(b"\n")

    def key(self, *request: Any) -> str:
        """The name of a request: numbers, texts and lists of them."""
        text = json.dumps([self._model, *request], ensure_ascii=False, default=str)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def get(self, key: str) -> Any:
        """The answer, or None."""
        return self._values.get(key)

    def add(self, key: str, value: Any) -> None:
        """Keep an answer; after some of them the file is brought up to date."""
        if self._file is not None:
            self._values[key] = value
            self._file.write(json.dumps({"key": key, "value": value}) + "\n")
            self._unsaved += 1
            if self._unsaved >= _OFTEN:
                self.flush()

    def flush(self) -> None:
        """Write what was added."""
        if self._file is not None:
            self._file.flush()
            self._unsaved = 0

    def close(self) -> None:
        """No more answers."""
        if self._file is not None:
            self._file.close()


def content(model: nn.Module) -> str:
    """A digest of the names and the numbers of a model's parameters, or of those that are here."""
    found = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        found.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        found.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def together(parts: Sequence[str]) -> str:
    """One digest of those of all ranks."""
    return parts[0] if len(set(parts)) == 1 else hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()
