"""The steps of `mcc data` on the text that every Python carries, against plain scripts that do the same job.

CPU seconds of one process, so that a busy machine does not count. Near-duplicates and contamination are put into the
text on purpose. Where MCC_TEST_DATA names a folder with `wiki/*.bz2`, that dump is read too.
"""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mcc.data.cloze import ClozeConfig, cloze
from mcc.data.corpus import python_corpus
from mcc.data.decontaminate import DecontaminateConfig, TaskFile, decontaminate
from mcc.data.dedup import DedupConfig, dedup
from mcc.data.filtering import CleanConfig, clean
from mcc.data.indexed import IndexedDataset
from mcc.data.preprocess import PreprocessConfig, preprocess
from mcc.data.samples import GPTSamples
from mcc.data.shuffle import shuffle
from mcc.data.tokenizer import TokenizerConfig, load_tokenizer, train_tokenizer
from mcc.data.wiki import wiki

# datasketch is far slower: it gets the first documents only, and so do we when compared with it.
_COMPARED_DOCUMENTS = 400
_CONTAMINATED_DOCUMENTS = 300


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rows(Path(folder))))


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every measurement; the work is done in `folder`."""
    corpus, texts = make_corpus(folder)
    megabytes = sum(len(text) for text in texts) / 1e6
    found = [row("documents in the corpus", len(texts)), row("text", megabytes, "MB")]

    def speed(what: str, step: Callable[[], Any]) -> Any:
        seconds, result = cpu(step)
        found.append(row(what, megabytes / seconds, "MB/s"))
        return result

    speed("clean (ftfy, whitespace, language, min-chars)", lambda: clean([corpus], folder / "c.jsonl", CleanConfig()))
    speed("dedup", lambda: dedup([corpus], folder / "d.jsonl"))
    speed("shuffle", lambda: shuffle([corpus], folder / "s.jsonl"))
    tokens = TokenizerConfig(vocab_size=4096)
    speed("tokenizer, 4,096 tokens", lambda: train_tokenizer([corpus], folder / "t.json", tokens))
    eod = PreprocessConfig(append_eod=True)
    speed("preprocess", lambda: preprocess([corpus], folder / "p", folder / "t.json", eod))
    found += [*against_datasketch(folder, texts), *against_plain_rule(folder, texts)]
    found += [*same_bytes(folder, texts), *samples(folder), *dump(folder)]
    return found


def row(what: str, value: float, unit: str = "", ok: bool | None = None, bar: str = "") -> dict[str, Any]:
    rounded = float(f"{value:.3g}") if isinstance(value, float) else value
    return {"what": what, "value": rounded, "unit": unit, **({} if ok is None else {"ok": ok, "bar": bar})}


def cpu(step: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of `step`, all threads, and what it returns."""
    started = time.process_time()
    result = step()
    return time.process_time() - started, result


def make_corpus(folder: Path) -> tuple[Path, list[str]]:
    """The embedded corpus as it is; with a few words changed (near-duplicates); half of it with many changed."""
    generator = random.Random(1)
    texts = [record["text"] for record in python_corpus()]
    original = list(texts)
    texts += [changed(text, 0.03, generator) for text in original]
    texts += [changed(text, 0.4, generator) for text in original[: len(original) // 2]]
    return write(folder / "corpus.jsonl", texts), texts


def changed(text: str, share: float, generator: random.Random) -> str:
    words = text.split(" ")
    for _ in range(int(len(words) * share)):
        words[generator.randrange(len(words))] = generator.choice(words)
    return " ".join(words)


def write(path: Path, texts: list[str]) -> Path:
    path.write_bytes(b"".join(orjson.dumps({"id": i, "text": text}) + b"\n" for i, text in enumerate(texts)))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def against_datasketch(folder: Path, texts: list[str]) -> list[dict[str, Any]]:
    """The same job with datasketch's MinHash and LSH, and both against the truth."""
    from datasketch import MinHash, MinHashLSH

    # The corpus is whole, then changed a little, then half of it changed a lot: 2/5 + 2/5 + 1/5.
    second = len(texts) * 2 // 5
    few = texts[:_COMPARED_DOCUMENTS] + texts[second : second + _COMPARED_DOCUMENTS]
    sets = [{text[i : i + 5] for i in range(len(text) - 4)} for text in few]

    def plain() -> set[int]:
        index = MinHashLSH(threshold=0.8, num_perm=128)
        removed = set()
        for i, shingles in enumerate(sets):
            sketch = MinHash(num_perm=128)
            sketch.update_batch([shingle.encode() for shingle in shingles])
            if index.query(sketch):
                removed.add(i)
            else:
                index.insert(str(i), sketch)
        return removed

    seconds, by_datasketch = cpu(plain)
    config = DedupConfig()
    config.layout()  # datasketch is imported by now; so is what its choice needs
    ours, _ = cpu(
        lambda: dedup([write(folder / "few.jsonl", few)], folder / "o.jsonl", duplicates=folder / "dup.jsonl")
    )
    pairs = read(folder / "dup.jsonl")
    removed = {pair["removed"] for pair in pairs}
    both = [(sets[pair["removed"]], sets[pair["kept"]]) for pair in pairs]
    precise = sum(len(one & other) >= 0.8 * len(one | other) for one, other in both)
    true = set()
    kept: list[int] = []
    for i, one in enumerate(sets):
        if any(len(one & sets[j]) >= 0.8 * len(one | sets[j]) for j in kept):
            true.add(i)
        else:
            kept.append(i)
    recall = len(removed & true) / len(true)
    return [
        row("dedup: datasketch's CPU time / ours", seconds / ours, "x"),
        row("dedup: recall of true duplicates", recall, "", recall >= 0.98, ">= 0.98"),
        row("dedup: recall of datasketch", len(by_datasketch & true) / len(true)),
        row("dedup: precision", precise / len(pairs), "", precise == len(pairs), "1"),
    ]


def against_plain_rule(folder: Path, texts: list[str]) -> list[dict[str, Any]]:
    """The 13-gram rule read plainly: every piece is read again from its start."""
    generator = random.Random(2)
    few = texts[:_CONTAMINATED_DOCUMENTS]
    cloze([write(folder / "held.jsonl", few)], folder / "task.jsonl", ClozeConfig(count=600))
    passages = [record["text"] for record in read(folder / "task.jsonl")]
    documents = []
    # Of the length of articles: several texts one after the other.
    for start in range(0, len(few), 6):
        sentences = ". ".join(few[start : start + 6]).split(". ")
        for _ in range(8):
            sentences.insert(generator.randrange(len(sentences) + 1), generator.choice(passages))
        documents.append(". ".join(sentences))
    source = write(folder / "contaminated.jsonl", documents)
    task = TaskFile(name="lambada", path=str(folder / "task.jsonl"))
    config = DecontaminateConfig(tasks=(task,), key_threshold=10**9)
    ours, report = cpu(lambda: decontaminate([source], folder / "clean.jsonl", config))
    ngrams = set()
    for passage in passages:
        words = re.findall(r"\w+", passage.lower())
        ngrams |= {" ".join(words[i : i + 13]) for i in range(len(words) - 12)}

    def plain_pass() -> list[str]:
        out = []
        for document in documents:
            pieces = plain_cut(document, ngrams)
            out += pieces if len(pieces) <= 10 else []
        return out

    seconds, pieces = cpu(lambda: (plain_pass(), plain_pass())[1])  # it too reads the documents twice
    same = [record["text"] for record in read(folder / "clean.jsonl")] == pieces
    return [
        row("decontaminate: plain rule's CPU time / ours", seconds / ours, "x"),
        row("decontaminate: documents cut", report.trimmed + report.split + report.dropped),
        row("decontaminate: same pieces as the plain rule", int(same), "", same, "1"),
    ]


def plain_cut(text: str, ngrams: set[str]) -> list[str]:
    pieces: list[str] = []
    rest: str | None = text
    while rest is not None:
        words = [(match[0], match.start()) for match in re.finditer(r"\w+", rest.lower())]
        for i in range(len(words) - 12):
            key = " ".join(word for word, _ in words[i : i + 13])
            if key in ngrams:
                break
        else:
            return [*pieces, rest]
        start = words[i][1]
        at = start - 200
        while at > 0 and rest[at] not in ".!?":
            at -= 1
        if at > 0 and at + 1 > 200:
            pieces.append(rest[: at + 1])
        at = start + len(key) + 200
        while at < len(rest) and rest[at] not in ".!?":
            at += 1
        rest = rest[at + 1 :] if len(rest) - at - 1 > 200 else None
    return pieces


def same_bytes(folder: Path, texts: list[str]) -> list[dict[str, Any]]:
    """Tokens of `preprocess` against a loop over the tokenizer."""
    tokenizer = load_tokenizer(folder / "t.json")
    expected = b"".join(
        np.array([*tokenizer.backend.encode(text).ids, tokenizer.eod], dtype="<u2").tobytes() for text in texts
    )
    same = (folder / "p_text_document.bin").read_bytes() == expected
    return [row("preprocess: same tokens as one text at a time", int(same), "", same, "1")]


def samples(folder: Path) -> list[dict[str, Any]]:
    """Building the order of a long training run, and reading from it."""
    data = IndexedDataset(folder / "p_text_document")
    build, order = cpu(lambda: GPTSamples(data, range(len(data)), 128, 1_000_000, seed=1))
    reading, _ = cpu(lambda: [order[i] for i in range(20_000)])
    return [
        row("samples: order of 1,000,000 samples of 128 tokens", build, "s"),
        row("samples: read", 20_000 / reading, "samples/s"),
    ]


def dump(folder: Path) -> list[dict[str, Any]]:
    """Articles a second, when there is a dump."""
    dumps = sorted(Path(os.environ.get("MCC_TEST_DATA", "/nonexistent")).glob("wiki/*.bz2"))
    if not dumps:
        return []
    seconds, report = cpu(lambda: wiki(dumps, folder / "wiki.jsonl"))
    left = [mark for mark in ("{{", "{|", "<ref") if mark in (folder / "wiki.jsonl").read_text(encoding="utf-8")]
    return [
        row("wiki: articles", report.documents_in / seconds, "articles/s"),
        row("wiki: marks left in the text", len(left), "", not left, "0"),
    ]


if __name__ == "__main__":
    main()
