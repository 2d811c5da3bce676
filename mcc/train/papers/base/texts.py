"""Token files of a paper's texts; made once."""

from __future__ import annotations

import json
from pathlib import Path

from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.core.files import atomic_path, write_text
from mcc.data.corpus import python_corpus
from mcc.data.preprocess import PreprocessConfig, document_prefix, preprocess
from mcc.data.tokenizer import TokenizerConfig, train_tokenizer

_MAX_CHARS = 3_000_000
_HELD_OUT = 20  # one document in so many


def token_files(text: Path, prefix: Path, tokenizer: Path, reporter: Reporter) -> str:
    """The prefix of the token files of `text`."""
    there = document_prefix(prefix)
    if not there.with_name(f"{there.name}.idx").exists():
        preprocess([text], prefix, tokenizer, PreprocessConfig(), reporter)
    return str(there)


def own_tokenizer(text: Path, file: Path, vocab_size: int, reporter: Reporter) -> Path:
    """A tokenizer trained on `text`."""
    if not file.exists():
        train_tokenizer([text], file, TokenizerConfig(vocab_size=vocab_size), reporter)
    return file


def python_texts(folder: Path) -> tuple[Path, Path]:
    """Python's own documentation: a file to train on and one that is held out."""
    train, held_out = folder / "python-train.jsonl", folder / "python-heldout.jsonl"
    if not held_out.exists():
        lines = [json.dumps(record) + "\n" for record in python_corpus(_MAX_CHARS)]
        write_text(train, "".join(line for i, line in enumerate(lines) if i % _HELD_OUT))
        write_text(held_out, "".join(lines[::_HELD_OUT]))
    return train, held_out


def first_tokens(text: Path, file: Path, model: Path, count: int) -> Path:
    """The beginning of a text that has so many tokens, as one document.

    Raises:
        MccError: the text has fewer.
    """
    if not file.exists():
        from tokenizers import Tokenizer

        whole = text.read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        offsets = tokenizer.encode(whole, add_special_tokens=False).offsets
        if len(offsets) < count:
            raise MccError(f"{text} has {len(offsets)} tokens, {count} are needed", "a smaller --size")
        write_text(file, json.dumps({"text": whole[: offsets[count - 1][1]]}) + "\n")
    return file


def beginning(text: Path, file: Path, lines: int) -> Path:
    """The first lines of a file, all if 0, as a file of their own."""
    kept = text.read_bytes().splitlines(True)
    with atomic_path(file) as temporary:
        temporary.write_bytes(b"".join(kept[:lines] if lines else kept))
    return file
