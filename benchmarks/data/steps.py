"""The steps of `mcc data` as command lines, with something to read for each: for the benchmarks of memory and workers.

Where MCC_TEST_DATA names a folder with GPT-2's vocabulary, LAMBADA and a dump, those are used. Without it a vocabulary
is trained, Python's documentation is the task to keep out, and `wiki` is left out.
"""

from __future__ import annotations

import bz2
import itertools
import json
import sys
from pathlib import Path

import orjson
from corpora import data_folder, debian_docs, enlarged, vocabulary
from measure import command

from mcc.core.files import atomic_path

STEPS = (
    "wiki",
    "clean",
    "urls",
    "dedup",
    "decontaminate",
    "shuffle",
    "holdout",
    "ids",
    "concat",
    "tokenizer",
    "preprocess",
    "merge",
)


def arguments(step: str, source: Path, folder: Path) -> list[object]:
    """The command line of `step` over `source`, with its outputs in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    more: list[object] = []
    if step == "clean":
        more = ["--filters", "ftfy,whitespace,min-chars,language"]
    elif step == "urls":
        more = ["--key", "id", "--no-lists", "--allow-malformed"]
    elif step == "holdout":
        more = ["--held-out", folder / "held-out.jsonl"]
    elif step == "decontaminate":
        more = task(folder)
    elif step == "preprocess":
        return ["data", step, source, "--output-prefix", folder / "tokens", "--tokenizer", vocabulary(), "--append-eod"]
    elif step == "merge":
        return ["data", step, source, source, "--output-prefix", folder / "merged"]
    ending = "json" if step == "tokenizer" else "jsonl"
    return ["data", step, source, "-o", folder / f"{step}.{ending}", *more]


def task(folder: Path) -> list[object]:
    """Options that name a task."""
    data = data_folder()
    if data is not None:
        return ["--task", "lambada", "--task-file", data / "lambada" / "lambada_test.jsonl"]
    path = folder / "task.jsonl"
    texts = [orjson.loads(line)["text"][:400] for line in debian_docs(2).read_bytes().splitlines()]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return ["--task", "jsonl", "--task-file", path]


def source_of(step: str, megabytes: float, times: int, folder: Path) -> Path | None:
    """What `step` reads: about `megabytes` `times` over. None, and a line that says why, when it cannot be had."""
    folder.mkdir(parents=True, exist_ok=True)
    if step == "wiki":
        return _dump(megabytes, times, folder)
    return prepared(step, _corpus(megabytes, times), folder / str(times))


def prepared(step: str, corpus: Path, folder: Path) -> Path:
    """What `step` reads, made of documents: token files for `merge`."""
    if step != "merge":
        return corpus
    command(arguments("preprocess", corpus, folder))
    return folder / "tokens_text_document"


def _corpus(megabytes: float, times: int) -> Path:
    corpus = debian_docs(megabytes * times)
    if corpus.stat().st_size < 0.99e6 * megabytes * times:  # there is not so much
        return enlarged(megabytes, times)
    return corpus


def _dump(megabytes: float, times: int, folder: Path) -> Path | None:
    data = data_folder()
    dumps = sorted(data.glob("wiki/*.bz2")) if data else []
    if not dumps:
        print("wiki: left out, MCC_TEST_DATA names no folder with wiki/*.bz2", file=sys.stderr)
        return None
    content = bz2.decompress(dumps[0].read_bytes())
    begin, end = content.index(b"<page>"), content.rindex(b"</mediawiki>")
    copies = max(round(megabytes * 1e6 / (end - begin)), 1) * times
    path = folder / f"dump-{times}.xml.bz2"
    # The blocks of bzip2 are compressed once, a stream a copy, as those of Wikipedia's multistream dumps.
    pages = bz2.compress(content[begin:end])
    with path.open("wb") as packed:
        packed.write(bz2.compress(content[:begin]))
        packed.writelines(itertools.repeat(pages, copies))
        packed.write(bz2.compress(content[end:]))
    return path


def short_documents(count: int) -> Path:
    """A JSONL of at most `count` (up to 370,000) documents of 300 characters: what a step keeps of each shows."""
    source = _corpus(12, 10)
    path = source.with_name(f"{source.stem}-short-{count}.jsonl")
    if path.exists():
        return path
    with atomic_path(path) as temporary, temporary.open("wb") as stream, source.open("rb") as lines:
        texts = (orjson.loads(line)["text"] for line in lines)
        pieces = (text[start : start + 300] for text in texts for start in range(0, len(text) - 299, 300))
        for i, piece in enumerate(itertools.islice(pieces, count)):
            stream.write(orjson.dumps({"id": f"http://a{i % 1000}.org/{i}", "text": piece}) + b"\n")
    return path
