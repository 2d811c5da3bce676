"""How fast samples are found and made, against the tests' plain references, and what making them ahead saves.

CPU time of one thread, so that other work on the machine shows little; ratios are of one run. The text is made up:
sentences of 25 tokens and documents of 20 sentences on average, as in Wikipedia.

    python benchmarks/train/samples.py                 2 million tokens
    python benchmarks/train/samples.py --documents 20000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mcc.data.indexed import IndexedDataset, IndexedWriter
from mcc.data.training.bert_samples import BertSamples
from mcc.data.training.blends import build_blend
from mcc.data.training.config import MaskConfig
from mcc.data.training.masking import Vocabulary
from mcc.data.training.sentence_pairs import PairKey, build_pairs
from mcc.train.sources.prefetch import Prefetched
from mcc.train.sources.source import Source
from mcc.train.sources.tokens import MaskedTokens
from tests.data.training import reference

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"{'##' * (i % 4 == 0)}{i}" for i in range(5, 30522))]
STARTS = np.array([not piece.startswith("##") for piece in PIECES])
VOCABULARY = Vocabulary(cls=2, sep=3, mask=4, pad=0, starts=STARTS)
T = 512


def corpus(prefix: Path, documents: int) -> IndexedDataset:
    """Random tokens in sentences and documents of geometric lengths."""
    generator = np.random.default_rng(0)
    with IndexedWriter(prefix, np.uint16) as writer:
        for sentences in generator.geometric(1 / 20, documents):
            sizes = generator.geometric(1 / 25, sentences)
            writer.add_many(
                generator.integers(5, 30522, int(sizes.sum())).astype(np.uint16), sizes.tolist(), end_documents=False
            )
            writer.end_document()
    return IndexedDataset(prefix)


def cpu(function: Callable[[], Any]) -> float:
    """Seconds of CPU that a call takes."""
    started = time.process_time()
    function()
    return time.process_time() - started


def indices(data: IndexedDataset) -> dict[str, float]:
    """Samples a second that are found, and how much faster than one sentence at a time."""
    key = PairKey(0, data.documents, T, 1, 1234)
    found = len(build_pairs(data, key))
    ours = cpu(lambda: build_pairs(data, key))
    plain = cpu(lambda: reference.pairs(data, range(data.documents), T - 3, 1, 1234, 0.1, 2))
    blend = cpu(lambda: build_blend([0.5, 0.3, 0.2], 500_000))
    return {"pairs_per_s": found / ours, "pairs_against_plain": plain / ours, "blend_of_3_per_s": 500_000 / blend}


def masks(data: IndexedDataset, count: int) -> dict[str, float]:
    """Time of a masked sample, and how much faster than one draw at a time in plain Python."""
    samples = BertSamples(data, PairKey(0, data.documents, T, count, 1234), VOCABULARY, MaskConfig())
    pieces = dict(enumerate(PIECES))

    def plain() -> None:
        for i in range(count):
            start, stop, goal = (int(value) for value in samples.pairs[i])
            sentences = [data[s].tolist() for s in range(start, stop)]
            reference.sample(sentences, goal, T, 1234 + i, pieces)

    ours = cpu(lambda: [samples[i] for i in range(count)])
    return {"masked_sample_us": ours / count * 1e6, "masks_against_plain": cpu(plain) / ours}


def waiting(data: IndexedDataset, steps: int, batch: int = 32) -> dict[str, float]:
    """Milliseconds a step waits for its batch of 32 x 512 tokens: made when asked for, and made ahead."""
    torch.set_num_threads(1)
    key = PairKey(0, data.documents, T, 3 * steps * batch, 1234)
    source = MaskedTokens(BertSamples(data, key, VOCABULARY, MaskConfig()), T, len(PIECES))
    ahead = Prefetched(source)
    square = torch.randn(1024, 1024)
    waited = {"asked": 0.0, "ahead": 0.0}
    for step in range(steps):  # by turns, so that the machine's load touches both alike
        turns: list[tuple[str, Source]] = [("asked", source), ("ahead", ahead)]
        for name, given in turns:
            started = time.perf_counter()
            given.batch(step * batch, batch)
            waited[name] += time.perf_counter() - started
            for _ in range(4):
                square @ square
    ahead.close()
    return {f"wait_{name}_ms": seconds / steps * 1e3 for name, seconds in waited.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = corpus(Path(folder) / "d", given.documents)
        found: dict[str, Any] = {"documents": data.documents, "sentences": len(data), "tokens": data.tokens}
        found.update({**indices(data), **masks(data, 300), **waiting(data, given.steps)})
    print(json.dumps([{"what": f"BERT's samples: {name}", "value": value} for name, value in found.items()]))


if __name__ == "__main__":
    main()
