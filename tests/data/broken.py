"""A corpus of broken files, made small and on the spot: what crawls, cut connections and other programs leave."""

from __future__ import annotations

import bz2
import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import orjson
import zstandard


def _text(i: int) -> str:
    own = " ".join(
        f"The {name} of number {i} was seen near the {name} house." for name in ("garden", "river", "castle")
    )
    return f"{own} Nobody who saw the castle had ever heard of another castle. " * (1 + i % 3)


GOOD = [{"id": f"d{i}", "url": f"https://example.org/{i}", "text": _text(i)} for i in range(8)]
_LINES = [orjson.dumps(record) for record in GOOD]


@dataclass(frozen=True)
class Broken:
    """A file and what is wrong with it.

    Args:
        line: of the one bad line; None when the file as a whole is of no use.
        told: what must stand in the message.
    """

    name: str
    content: bytes
    line: int | None
    told: str


def _with(bad: bytes) -> bytes:
    """Good lines around a bad one, which is line 4."""
    return b"\n".join([*_LINES[:3], bad, *_LINES[3:], b""])


def _multi(pack: object) -> bytes:
    return b"".join(pack(line + b"\n") for line in _LINES)  # type: ignore[operator]


def _flipped(packed: bytes) -> bytes:
    """One bit in the middle is wrong."""
    at = len(packed) // 2
    return packed[:at] + bytes([packed[at] ^ 16]) + packed[at + 1 :]


_ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress
_PARQUET_MAGIC = b"PAR1"

RECORDS = [
    Broken("cut.jsonl", _with(_LINES[0][:30]), 4, "not JSON at column"),
    Broken("malformed.jsonl", _with(b"{'text': 'single quotes'}"), 4, "not JSON at column"),
    Broken("no-object.jsonl", _with(b'["a", "list"]'), 4, "an array"),
    Broken("missing-key.jsonl", _with(b'{"id": 1, "txt": "x", "url": "u"}'), 4, "no key 'text'"),
    Broken("number.jsonl", _with(b'{"text": 3, "url": "u"}'), 4, "key 'text' holds a number"),
    Broken("null.jsonl", _with(b'{"text": null}'), 4, "key 'text' holds null"),
    Broken("nested.jsonl", _with(b'{"text": {"a": "b"}}'), 4, "key 'text' holds an object"),
    Broken("surrogate.jsonl", _with(b'{"text": "\\ud800 alone"}'), 4, "lone surrogate"),
    Broken("utf8.jsonl", _with(b'{"text": "caf\xe9"}'), 4, "invalid UTF-8"),
    Broken("nul.jsonl", _with(b'{"text": "a\x00b"}'), 4, "not JSON at column"),
    Broken("nuls.jsonl", _with(b"\x00" * 4096), 4, "not JSON at column"),
    Broken("twice.jsonl", _with(b'{"text": "a", "text": "b"}'), 4, "twice"),
    Broken("deep.jsonl", _with(b'{"text": ' + b"[" * 5000), 4, "not JSON at column"),
    Broken("two-on-a-line.jsonl", _with(_LINES[0] + _LINES[1]), 4, "not JSON at column"),
    Broken("empty.jsonl", b"", None, "no documents"),
    Broken("blank.jsonl", b"\n \n\n", None, "no documents"),
    Broken("empty.jsonl.gz", b"", None, ""),
    Broken("cut.jsonl.gz", gzip.compress(b"\n".join(_LINES) + b"\n", mtime=0)[:-15], None, "truncated"),
    Broken("cut-members.jsonl.gz", _multi(gzip.compress)[:-30], None, "truncated"),
    Broken("cut.jsonl.bz2", bz2.compress(b"\n".join(_LINES) + b"\n")[:-15], None, "truncated"),
    Broken("cut.jsonl.zst", _ZSTD(b"\n".join(_LINES) + b"\n")[:-9], None, "truncated"),
    Broken("plain.jsonl.gz", b"\n".join(_LINES), None, "cannot be read"),
    Broken("plain.jsonl.bz2", b"\n".join(_LINES), None, "cannot be read"),
    Broken("plain.jsonl.zst", b"\n".join(_LINES), None, "cannot be read"),
    Broken("flipped.jsonl.gz", _flipped(gzip.compress(b"\n".join(_LINES), mtime=0)), None, "cannot be read"),
    Broken("flipped.jsonl.bz2", _flipped(bz2.compress(b"\n".join(_LINES))), None, "cannot be read"),
    Broken("flipped.jsonl.zst", _flipped(_ZSTD(b"\n".join(_LINES))), None, "cannot be read"),
    Broken("no.parquet", b"\n".join(_LINES), None, "cannot be read as Parquet"),
    Broken("cut.parquet", _PARQUET_MAGIC + b"\x15\x04\x15", None, "cannot be read as Parquet"),
    Broken("image.png", b"\x89PNG\r\n", None, "unknown format"),
]

_MMAP = b"MMIDIDX\x00\x00"
_VERSION = struct.pack("<Q", 1)
# Two documents of three tokens each, uint16.
INDEX = (
    _MMAP
    + _VERSION
    + struct.pack("<BQQ", 8, 2, 3)
    + struct.pack("<2i", 3, 3)
    + struct.pack("<2q", 0, 6)
    + struct.pack("<3q", 0, 1, 2)
)
TOKENS = struct.pack("<6H", 1, 2, 3, 4, 5, 6)

# name -> (.idx, .bin); None for no such file.
TOKEN_FILES: dict[str, tuple[bytes | None, bytes | None]] = {
    "cut-header": (INDEX[:20], TOKENS),
    "cut-sizes": (INDEX[:37], TOKENS),
    "cut-end": (INDEX[:-1], TOKENS),
    "longer": (INDEX + b"\x00" * 8, TOKENS),
    "text": (b"some text that is no index at all\n" * 9, TOKENS),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(200), TOKENS),
    "empty-index": (b"", TOKENS),
    "version": (_MMAP + struct.pack("<Q", 99) + INDEX[17:], TOKENS),
    "dtype": (INDEX[:17] + b"\x63" + INDEX[18:], TOKENS),
    "counts": (INDEX[:18] + struct.pack("<QQ", 2**60, 2**60) + INDEX[34:], TOKENS),
    "negative": (INDEX[:34] + struct.pack("<2i", -3, 3) + INDEX[42:], TOKENS),
    "pointers": (INDEX[:42] + struct.pack("<2q", 0, 10**9) + INDEX[58:], TOKENS),
    "documents": (INDEX[:58] + struct.pack("<3q", 0, 7, 2), TOKENS),
    "cut-tokens": (INDEX, TOKENS[:-3]),
    "no-tokens": (INDEX, None),
    "empty-tokens": (INDEX, b""),
    "no-index": (None, TOKENS),
}

_TOKENIZER = b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'
# Arguments of `mcc data preprocess` with {folder}, and the files.
VOCABULARIES: dict[str, tuple[list[str], dict[str, bytes]]] = {
    "tokenizer-cut": (["--tokenizer", "{folder}/t.json"], {"t.json": _TOKENIZER[:40]}),
    "tokenizer-empty": (["--tokenizer", "{folder}/t.json"], {"t.json": b""}),
    "tokenizer-other": (["--tokenizer", "{folder}/t.json"], {"t.json": b'{"name": "a package"}'}),
    "tokenizer-binary": (["--tokenizer", "{folder}/t.json"], {"t.json": bytes(range(256))}),
    "tokenizer-missing": (["--tokenizer", "{folder}/none.json"], {}),
    "folder-empty": (["--tokenizer", "{folder}"], {}),
    "gpt2-cut": (
        ["--vocab-file", "{folder}/vocab.json", "--merge-file", "{folder}/merges.txt"],
        {"vocab.json": b'{"a": 0, "b"', "merges.txt": b"#version: 0.2\na b\n"},
    ),
    "gpt2-other-merges": (
        ["--vocab-file", "{folder}/vocab.json", "--merge-file", "{folder}/merges.txt"],
        {"vocab.json": b'{"a": 0, "b": 1, "ab": 2}', "merges.txt": b"#version: 0.2\nx y\n"},
    ),
    "gpt2-merges-are-no-merges": (
        ["--vocab-file", "{folder}/vocab.json", "--merge-file", "{folder}/merges.txt"],
        {"vocab.json": b'{"a": 0, "b": 1, "ab": 2}', "merges.txt": b"one two three four\n\x00\xff\n"},
    ),
    "gpt2-no-merges": (["--vocab-file", "{folder}/vocab.json"], {"vocab.json": b'{"a": 0}'}),
    "gpt2-numbers": (
        ["--vocab-file", "{folder}/vocab.json", "--merge-file", "{folder}/merges.txt"],
        {"vocab.json": b'{"a": "zero"}', "merges.txt": b"#version: 0.2\n"},
    ),
    "bert-empty": (["--vocab-file", "{folder}/vocab.txt"], {"vocab.txt": b""}),
    "bert-no-unknown": (["--vocab-file", "{folder}/vocab.txt"], {"vocab.txt": b"a\nb\nc\n"}),
    "bert-utf8": (
        ["--vocab-file", "{folder}/vocab.txt"],
        {"vocab.txt": b"[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\ncaf\xe9\n"},
    ),
}


def write_records(folder: Path) -> dict[str, Path]:
    """Every broken file of records, `good.jsonl`, and `task.jsonl` for decontamination."""
    paths = {}
    for broken in RECORDS:
        paths[broken.name] = folder / broken.name
        paths[broken.name].write_bytes(broken.content)
    paths["good.jsonl"] = folder / "good.jsonl"
    paths["good.jsonl"].write_bytes(b"\n".join(_LINES) + b"\n")
    (folder / "task.jsonl").write_text(
        '{"text": "thirteen words of a task that no document has anything to do with at all"}\n'
    )
    return paths


def write_token_files(folder: Path) -> None:
    """Every broken pair of token files, and `good`."""
    for name, (index, tokens) in {**TOKEN_FILES, "good": (INDEX, TOKENS)}.items():
        for ending, content in ((".idx", index), (".bin", tokens)):
            if content is not None:
                (folder / f"{name}{ending}").write_bytes(content)
