"""`mcc data preprocess` against Megatron-LM's way: a fast tokenizer of transformers, a call and a write a document.

The reference is written from the description of Megatron-LM's tools/preprocess_data.py: a pool of processes (here of
one) parses and tokenizes each line, the parent turns each list of ids into an array and writes it. Both read the same
file and must write the same bytes. The vocabulary is GPT-2's, or without MCC_TEST_DATA one trained here.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from corpora import debian_docs, vocabulary
from measure import cpu, row

# For the ratio; for the speed the packages' whole text, read several times.
MEGABYTES, LONG_MEGABYTES, TIMES = 60, 400, 4

_tokenizer: Any = None


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rows(Path(folder))))


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the table."""
    gpt2 = vocabulary()
    corpus, long = debian_docs(MEGABYTES), debian_docs(LONG_MEGABYTES)
    from mcc.data.preprocess import PreprocessConfig, preprocess

    config = PreprocessConfig(append_eod=True)
    ours, report = cpu(lambda: preprocess([corpus], folder / "ours", gpt2, config))
    rate_seconds, _ = cpu(lambda: preprocess([long] * TIMES, folder / "long", gpt2, config))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    import transformers.models.gpt2  # noqa: F401 - the import is not counted, loading the vocabulary is

    theirs, _ = cpu(lambda: (_load(gpt2), as_megatron(corpus, folder / "theirs")))
    same = all(
        Path(f"{folder}/ours_text_document{end}").read_bytes() == Path(f"{folder}/theirs{end}").read_bytes()
        for end in (".bin", ".idx")
    )
    megabytes = sum(len(json.loads(line)["text"].encode()) for line in long.open("rb")) * TIMES / 1e6
    return [
        row("preprocess: Megatron-LM's way, CPU", theirs, "s"),
        row(f"preprocess: mcc ({report.engine}), CPU", ours, "s"),
        row("preprocess: faster", theirs / ours, "x", theirs / ours >= 20, ">= 20"),
        row("preprocess: same bytes", int(same), "", same, "1"),
        row(f"preprocess: {megabytes:.0f} MB of text, one core", megabytes / rate_seconds, "MB/s",
            megabytes / rate_seconds >= 80, ">= 80"),
        row("preprocess: peak memory", peak, "MiB"),
    ]  # fmt: skip


def _load(gpt2: Path) -> None:
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from transformers import GPT2TokenizerFast
    from transformers.utils import logging

    logging.set_verbosity_error()
    files = str(gpt2 / "vocab.json"), str(gpt2 / "merges.txt")
    _tokenizer = GPT2TokenizerFast(*files)
    if len(_tokenizer) < len(json.loads((gpt2 / "vocab.json").read_bytes())):  # transformers 5 takes them by name
        _tokenizer = GPT2TokenizerFast(vocab=files[0], merges=files[1])


def _encode(line: str) -> tuple[dict[str, list[int]], dict[str, list[int]], int]:
    ids = list(_tokenizer(json.loads(line)["text"]).input_ids)
    if ids:
        ids.append(_tokenizer.eos_token_id)
    return {"text": ids}, {"text": [len(ids)] if ids else []}, len(line)


def as_megatron(corpus: Path, prefix: Path) -> None:
    """One document after the other."""
    sizes: list[int] = []
    documents = [0]
    with (
        multiprocessing.get_context("fork").Pool(1) as pool,
        corpus.open(encoding="utf-8") as lines,
        prefix.with_suffix(".bin").open("wb") as tokens,
    ):
        for ids, lengths, _ in pool.imap(_encode, lines, 32):
            tokens.write(np.array(ids["text"], dtype=np.uint16).tobytes(order="C"))
            sizes.extend(lengths["text"])
            documents.append(len(sizes))
        pool.close()
        pool.join()
    pointers, start = [], 0
    for size in sizes:
        pointers.append(start)
        start += size * 2
    with prefix.with_suffix(".idx").open("wb") as index:
        index.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, len(sizes), len(documents)))
        index.write(np.array(sizes, dtype=np.int32).tobytes() + np.array(pointers, dtype=np.int64).tobytes())
        index.write(np.array(documents, dtype=np.int64).tobytes())


if __name__ == "__main__":
    main()
