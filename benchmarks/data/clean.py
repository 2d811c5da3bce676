"""`mcc data clean --preset openwebtext` against Megatron-LM's cleaning loop: CPU time of one process, the same lines.

    MCC_TEST_DATA=... python benchmarks/data/clean.py

The loop is written here plainly: json, ftfy.fix_text, langdetect seeded 0, GPT-2's tokens for short texts with the
fast tokenizer (the original's own is slower). MCC_TEST_DATA has GPT-2's vocabulary; without it one is trained. Then
ftfy and the language alone, each against its package, and how often the engines agree.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from corpora import debian_docs, vocabulary
from measure import cpu, row

from mcc.data.filtering import CleanConfig, clean
from mcc.data.text.languages import Langdetect, make
from mcc.data.text.mojibake import FastFixer

MEGABYTES = 30
_AGREEMENT_TEXTS = 3000


def main() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rows(Path(folder))))


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every measurement; the work is done in `folder`."""
    corpus = debian_docs(MEGABYTES)
    with corpus.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = vocabulary()
    config = CleanConfig(preset="openwebtext", options={"min-tokens": {"tokenizer": str(tokenizer)}})
    # What both load once is loaded by now.
    few = folder / "few.jsonl"
    few.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:50]), encoding="utf-8")
    clean([few], folder / "few-ours.jsonl", config)
    plain(few, folder / "few-theirs.jsonl", tokenizer)

    ours, report = cpu(lambda: clean([corpus], folder / "ours.jsonl", config))
    theirs, _ = cpu(lambda: plain(corpus, folder / "theirs.jsonl", tokenizer))
    same = records(folder / "ours.jsonl") == records(folder / "theirs.jsonl")
    found = [
        row("clean: documents in the corpus", len(texts)),
        row("clean: documents kept", report.documents_out),
        row("clean: the seeds' loop", megabytes / theirs, "MB/s"),
        row("clean: ours", megabytes / ours, "MB/s"),
        row("clean: the loop's CPU time / ours", theirs / ours, "x", theirs / ours >= 8, ">= 8"),
        row("clean: the same documents and text", int(same), "", same, "1"),
    ]
    found += mending(texts, megabytes)
    return found + languages(texts)


def plain(source: Path, target: Path, tokenizer: Path) -> None:
    """The loop as written: anything that goes wrong drops the document."""
    import ftfy
    from langdetect import DetectorFactory, detect
    from transformers import GPT2TokenizerFast

    DetectorFactory.seed = 0
    gpt2 = GPT2TokenizerFast.from_pretrained(str(tokenizer))
    with source.open(encoding="utf-8") as lines, target.open("wb") as out:
        for line in lines:
            try:
                record = json.loads(line)
                record["text"] = ftfy.fix_text(record["text"])
                if detect(record["text"]) != "en":
                    continue
                if len(record["text"]) < 1024 and len(gpt2.encode(record["text"])) < 128:
                    continue
                out.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            except Exception:
                continue


def mending(texts: list[str], megabytes: float) -> list[dict[str, Any]]:
    import ftfy

    fixer = FastFixer()
    ours, mended = cpu(lambda: [fixer.fix(text) for text in texts])
    theirs, expected = cpu(lambda: [ftfy.fix_text(text) for text in texts])
    differ = sum(one != other for one, other in zip(mended, expected, strict=True))
    return [
        row("clean: ftfy itself", megabytes / theirs, "MB/s"),
        row("clean: ftfy's time / the filter's", theirs / ours, "x"),
        row("clean: texts mended otherwise than by ftfy", differ, "", differ == 0, "0"),
    ]


def languages(texts: list[str]) -> list[dict[str, Any]]:
    """Whole documents, short pieces, and pieces in two languages."""
    generator = random.Random(1)
    sample = []
    while len(sample) < _AGREEMENT_TEXTS:
        one, other = generator.choice(texts), generator.choice(texts)
        at, size = generator.randrange(len(one)), generator.randrange(3, 200)
        sample += [one, one[at : at + size], one[at : at + size] + other[:size]]
    engine = Langdetect()
    # The original loads its profiles at its first question.
    engine.ask_original("once")
    theirs, expected = cpu(lambda: [engine.ask_original(text)[0] for text in sample])
    ours, told = cpu(lambda: [engine.find(text)[0] for text in sample])
    differ = sum(one != other for one, other in zip(told, expected, strict=True))
    found = [
        row("clean: texts in a language test", len(sample)),
        row("clean: langdetect's time / the filter's", theirs / ours, "x"),
        row("clean: texts of another language than langdetect says", differ, "", differ == 0, "0"),
    ]
    for name in ("fasttext", "langid"):
        other_engine = make(name)
        seconds, answers = cpu(lambda engine=other_engine: [engine.find(text)[0] for text in sample])  # type: ignore[misc]
        same = sum((one == "en") == (other == "en") for one, other in zip(answers, expected, strict=True))
        found.append(row(f"clean: engine {name}", len(sample) / seconds, "texts/s"))
        found.append(row(f"clean: engine {name} and langdetect say alike whether English", same / len(sample)))
    return found


def records(path: Path) -> list[Any]:
    with path.open("rb") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
