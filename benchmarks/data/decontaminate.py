"""`mcc data decontaminate` against Megatron-LM's rule as written: CPU time of one process, and the same records.

    MCC_TEST_DATA=... python benchmarks/data/decontaminate.py

The tasks are LAMBADA's passages and questions of 8 to 12 words, taken from the passages too; without MCC_TEST_DATA,
passages of Python's documentation. They are put into a few documents (what a crawl has), and into so many, several
each, that 25 to 45% are cut.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from corpora import debian_docs
from measure import cpu, row

from mcc.data.corpus import python_corpus
from mcc.data.decontaminate import DecontaminateConfig, TaskFile, decontaminate

MEGABYTES = 30
_TOP, _LOW, _SIDE, _PIECE, _PIECES, _THRESHOLD = 13, 8, 200, 200, 10, 10
_QUESTIONS = 2000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rows(Path(folder))))


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every measurement; the work is done in `folder`."""
    found = []
    tasks = _tasks(folder)
    for name, share, each, keys, bar in (
        ("", 0.02, 1, ("text",), 5),
        (", heavily contaminated", 0.42, 3, ("text",), 3),
        (", heavily contaminated, with questions", 0.42, 3, ("text", "question"), 3),
    ):
        corpus = folder / "corpus.jsonl"
        documents = _contaminated(corpus, [text for key in keys for text in tasks[key]], share, each)
        files = [TaskFile(name="jsonl", path=str(folder / f"{key}.jsonl"), key=key) for key in keys]
        config = DecontaminateConfig(tasks=tuple(files))
        ours, report = cpu(partial(decontaminate, [corpus], folder / "ours.jsonl", config))
        theirs, _ = cpu(partial(as_written, folder, keys, corpus, folder / "theirs.jsonl"))
        texts = [[json.loads(line)["text"] for line in (folder / f"{who}.jsonl").open()] for who in ("ours", "theirs")]
        cut = report.trimmed + report.split + report.dropped
        what, same = f"decontaminate{name}", texts[0] == texts[1]
        found += [
            row(f"{what}: speed", corpus.stat().st_size / 1e6 / ours, "MB/s"),
            row(f"{what}: the rule as written / ours", theirs / ours, "x", theirs >= bar * ours, f">= {bar}"),
            row(f"{what}: share of documents cut", cut / documents),
            row(f"{what}: same records", int(same), "", same, "1"),
        ]
        print(*found[-4:], sep="\n", file=sys.stderr, flush=True)
    return found


def _tasks(folder: Path) -> dict[str, list[str]]:
    """Key -> texts; both kinds are written to files too."""
    data = os.environ.get("MCC_TEST_DATA")
    if data:
        lines = Path(data, "lambada", "lambada_test.jsonl").read_bytes().splitlines()
        passages = [json.loads(line)["text"] for line in lines]
    else:
        paragraphs = (part for record in python_corpus() for part in record["text"].split("\n\n"))
        passages = list(dict.fromkeys(" ".join(part.split()[:80]) for part in paragraphs if len(part.split()) >= 30))
    generator = random.Random(3)
    questions = []
    for passage in passages[:_QUESTIONS]:
        words = passage.split()
        length, start = generator.randint(8, 11), generator.randrange(max(len(words) - 11, 1))
        questions.append(" ".join(words[start : start + length]) + "?")
    tasks = {"text": passages, "question": questions}
    for key, texts in tasks.items():
        (folder / f"{key}.jsonl").write_text("".join(json.dumps({key: text}) + "\n" for text in texts))
    return tasks


def _contaminated(path: Path, passages: list[str], share: float, each: int) -> int:
    """Writes the corpus with passages put between sentences of some documents; how many documents there are."""
    generator = random.Random(2)
    documents = 0
    with debian_docs(MEGABYTES).open("rb") as source, path.open("w") as output:
        for documents, line in enumerate(source, 1):  # noqa: B007 - the last number counts
            record = json.loads(line)
            if generator.random() < share:
                sentences = record["text"].split(". ")
                for _ in range(generator.randint(1, 2 * each - 1)):
                    sentences.insert(generator.randrange(len(sentences) + 1), generator.choice(passages))
                record["text"] = ". ".join(sentences)
            output.write(json.dumps(record, ensure_ascii=False) + "\n")
    return documents


def as_written(folder: Path, keys: tuple[str, ...], corpus: Path, output: Path) -> None:
    """Both passes of the rule, a document at a time, in plain Python: a text is read to its first n-gram and what
    follows is read as a text of its own, each time from its start."""
    counts = dict.fromkeys(_ngrams(folder, keys), 0)
    lengths = _lengths(counts)
    for document in corpus.open():
        for ngram in _count(json.loads(document)["text"], counts, lengths):
            counts[ngram] += 1
    rare = {ngram: 1 for ngram, count in counts.items() if count < _THRESHOLD}
    lengths = _lengths(rare)
    with output.open("w") as out:
        for document in corpus.open():
            record = json.loads(document)
            pieces = _cut(record["text"], rare, lengths)
            for piece in pieces if len(pieces) <= _PIECES else ():
                out.write(json.dumps({**record, "text": piece}, ensure_ascii=False) + "\n")


def _ngrams(folder: Path, keys: tuple[str, ...]) -> Iterator[str]:
    for key in keys:
        for line in (folder / f"{key}.jsonl").open():
            words, _ = _words(json.loads(line)[key])
            if _LOW <= len(words) < _TOP:
                yield " ".join(words)
            for i in range(len(words) - _TOP + 1):
                yield " ".join(words[i : i + _TOP])


def _lengths(ngrams: dict[str, int]) -> list[int]:
    return sorted({len(ngram.split()) for ngram in ngrams})


def _words(text: str) -> tuple[list[str], list[int]]:
    words, places = [], []
    for match in re.finditer(r"\w+", text.lower()):
        words.append(match.group(0))
        places.append(match.start())
    return words, places


def _first(text: str, ngrams: dict[str, int], lengths: list[int]) -> tuple[int, str] | None:
    words, places = _words(text)
    for i in range(len(words) - _TOP + 1):
        for length in (_TOP, *lengths):
            ngram = " ".join(words[i : i + length])
            if ngram in ngrams:
                return places[i], ngram
    if len(words) > _TOP:
        last = len(words) - _TOP
        for length in lengths:
            if length == _TOP:
                continue
            for i in range(last, len(words) - length + 1):
                ngram = " ".join(words[i : i + length])
                if ngram in ngrams:
                    return places[i], ngram
    return None


def _count(text: str, ngrams: dict[str, int], lengths: list[int]) -> set[str]:
    found = set()
    while text and (match := _first(text, ngrams, lengths)) is not None:
        found.add(match[1])
        text = text[match[0] + len(match[1]) + 1 :]
    return found


def _cut(text: str, ngrams: dict[str, int], lengths: list[int]) -> list[str]:
    pieces = []
    while (match := _first(text, ngrams, lengths)) is not None:
        at = match[0] - _SIDE
        while at > 0 and text[at] not in ".!?":
            at -= 1
        if at > 0 and at + 1 > _PIECE:
            pieces.append(text[: at + 1])
        at = match[0] + len(match[1]) + _SIDE
        while at < len(text) and text[at] not in ".!?":
            at += 1
        text = text[at + 1 :]
        if len(text) <= _PIECE:
            return pieces
    return [*pieces, text]


if __name__ == "__main__":
    main()
