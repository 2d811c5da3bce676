"""`mcc data dedup` against datasketch, text-dedup and datatrove: CPU time in one run, and all against the truth.

    python benchmarks/data/dedup.py

30 MB of Debian's documentation and near-copies of some of it. The truth is the exact Jaccard index of 5-character
shingles of every pair that can reach 0.8, found by a prefix filter (Bayardo, Ma, Srikant 2007), not by hashing. A peer
runs as its authors ship it, in an environment of its own under the temporary folder (made on first use): text-dedup on
words with its 128 permutations, datatrove with its 14 x 8 buckets.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).parent))
from corpora import debian_docs
from measure import cpu, row

from mcc.data.dedup import DedupConfig, dedup
from mcc.data.near_duplicates.shingles import jaccard, windows

MEGABYTES = 30
THRESHOLD = 0.8
# Near-copies: how many, and the shares of their words that are changed.
COPIES, SHARES = 800, (0.002, 0.005, 0.01, 0.02, 0.03, 0.05)
PEERS = ("text-dedup==0.4.0", "datatrove[processing]==0.10.1", "spacy", "orjson")
_TEXT_DEDUP = (
    "-m text_dedup.minhash --path json --split train --column text --num_proc 1 --threshold 0.8 --num_perm 128"
)
_DATATROVE = """
import sys
from pathlib import Path
from datatrove.executor import LocalPipelineExecutor as Executor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.typeshelper import Languages
source, out = Path(sys.argv[1]), sys.argv[2]
def read():
    return JsonlReader(str(source.parent), glob_pattern=source.name)
def run(tasks, *pipeline):
    Executor(pipeline=list(pipeline), tasks=tasks, workers=1, logging_dir=f"{out}/logs-{pipeline[-1].name}").run()
config = MinhashConfig()
run(1, read(), MinhashDedupSignature(f"{out}/signatures", config=config, language=Languages.english))
run(config.num_buckets, MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config))
run(1, MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config))
run(1, read(), MinhashDedupFilter(f"{out}/remove"), JsonlWriter(f"{out}/kept", compression=None))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rows(Path(folder))))


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every measurement; the work is done in `folder`."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    corpus = folder / "corpus" / "corpus.jsonl"
    texts = make_corpus(corpus)
    size = corpus.stat().st_size / 1e6
    DedupConfig().layout()  # datasketch is imported by now, here and in its own run
    runs = [cpu(lambda: dedup([corpus], folder / "o.jsonl", duplicates=folder / "dup.jsonl")) for _ in range(3)]
    ours = min(seconds for seconds, _ in runs)
    report = runs[-1][1]
    found = [
        row("dedup: documents", len(texts)),
        row("dedup: speed", size / ours, "MB/s"),
        row("dedup: removed", report.removed),
        row("dedup: pairs compared exactly", report.candidates),
    ]
    by_datasketch, removed = cpu(lambda: with_datasketch(corpus))
    ratio = by_datasketch / ours
    found.append(row("dedup: datasketch's CPU time / ours", ratio, "x", ratio >= 15, ">= 15"))
    found += against_truth(texts, folder / "dup.jsonl", removed)
    for name, seconds in peers(folder, corpus):
        ratio = seconds / ours
        found.append(row(f"dedup: {name}'s CPU time / ours", ratio, "x", ratio >= 20, ">= 20"))
    exact, _ = cpu(lambda: dedup([corpus], folder / "e.jsonl", DedupConfig(exact=True)))
    found.append(row("dedup: equal texts only", size / exact, "MB/s"))
    return found


def make_corpus(path: Path) -> list[str]:
    """Documents in a fixed random order; their identifiers are their places."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [orjson.loads(line)["text"] for line in debian_docs(MEGABYTES).read_bytes().splitlines()]
    generator = random.Random(1)
    texts += [changed(generator.choice(texts), generator) for _ in range(COPIES)]
    generator.shuffle(texts)
    path.write_bytes(b"".join(orjson.dumps({"id": str(i), "text": text}) + b"\n" for i, text in enumerate(texts)))
    return texts


def changed(text: str, generator: random.Random) -> str:
    words = text.split(" ")
    for _ in range(max(int(len(words) * generator.choice(SHARES)), 1)):
        words[generator.randrange(len(words))] = generator.choice(words)
    return " ".join(words)


def with_datasketch(path: Path) -> set[int]:
    """The same job as a plain script; which documents it would remove."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    removed = set()
    with path.open("rb") as lines:
        for i, line in enumerate(lines):
            text = orjson.loads(line)["text"]
            sketch = MinHash(num_perm=128)
            sketch.update_batch([piece.encode() for piece in {text[j : j + 5] for j in range(len(text) - 4)}])
            if index.query(sketch):
                removed.add(i)
            else:
                index.insert(str(i), sketch)
    return removed


def against_truth(texts: list[str], duplicates: Path, by_datasketch: set[int]) -> list[dict[str, Any]]:
    """Of pairs of duplicates one must go; what goes must be a duplicate of something."""
    pairs = [orjson.loads(line) for line in duplicates.read_bytes().splitlines()]
    removed = {int(pair["removed"]) for pair in pairs}
    true = true_pairs(texts)
    shares = [sum(i in gone or j in gone for i, j in true) / len(true) for gone in (removed, by_datasketch)]
    precise = sum(jaccard(texts[int(p["removed"])], texts[int(p["kept"])], 5) >= THRESHOLD for p in pairs)
    return [
        row("dedup: true pairs", len(true)),
        row("dedup: recall", shares[0], "", shares[0] >= 0.99, ">= 0.99"),
        row("dedup: precision", precise / len(pairs), "", precise == len(pairs), "1"),
        row("dedup: recall of datasketch", shares[1]),
    ]


def true_pairs(texts: list[str]) -> list[tuple[int, int]]:
    """Every pair with an exact Jaccard index of at least the threshold.

    Of two such sets, in any order of their members, the first (1 - threshold) |set| + 1 members have one in common; the
    rarest members come first, so that few sets share one.
    """
    sets = []
    for text in texts:
        parts = [hashes[rows == 0] for hashes, rows in windows([text], 5)]
        sets.append(np.unique(np.concatenate(parts)))
    values, counts = np.unique(np.concatenate(sets), return_counts=True)
    tokens, owners = [], []
    for i, one in enumerate(sets):
        rare = one[np.argsort(counts[np.searchsorted(values, one)], kind="stable")]
        prefix = rare[: int((1 - THRESHOLD) * len(one)) + 1]
        tokens.append(prefix)
        owners.append(np.full(len(prefix), i))
    token, owner = np.concatenate(tokens), np.concatenate(owners)
    order = np.argsort(token, kind="stable")
    token, owner = token[order], owner[order]
    starts = np.flatnonzero(np.concatenate(([True], token[1:] != token[:-1])))
    met: set[tuple[int, int]] = set()
    for start, end in zip(starts, [*starts[1:], len(token)], strict=True):
        if end - start > 1:
            group = owner[start:end].tolist()
            met.update((group[a], group[b]) for b in range(1, len(group)) for a in range(b))
    sizes = [len(one) for one in sets]
    likely = [(i, j) for i, j in met if min(sizes[i], sizes[j]) >= THRESHOLD * max(sizes[i], sizes[j])]
    found = []
    for i, j in likely:
        common = len(np.intersect1d(sets[i], sets[j], assume_unique=True))
        if common >= THRESHOLD * (sizes[i] + sizes[j] - common):
            found.append((i, j))
    return found


def peers(folder: Path, corpus: Path) -> list[tuple[str, float]]:
    """(name, CPU seconds) of those that can be installed."""
    programs = environment()
    if programs is None:
        return []
    env = {**os.environ, "HF_HOME": str(folder / "hub"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    found = []
    for name, arguments in (
        ("text-dedup", [*_TEXT_DEDUP.split(), "--data_files", corpus, "--output", folder / "t", "--cache_dir", folder]),
        ("datatrove", ["-c", _DATATROVE, corpus, folder / "datatrove"]),
    ):
        command = [programs / "python", *arguments]
        seconds, done = cpu(
            lambda command=command: subprocess.run(command, env=env, cwd=folder, capture_output=True, check=False)
        )
        if done.returncode:
            print(f"{name} failed: {done.stderr.decode()[-300:]}", file=sys.stderr)
        else:
            found.append((name, seconds))
    return found


def environment() -> Path | None:
    """The programs of an environment with the peers; None when they cannot be had."""
    folder = Path(tempfile.gettempdir(), "mcc-benchmark-dedup-peers")
    if not (folder / "ready").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            subprocess.run([folder / "bin" / "pip", "install", "--quiet", *PEERS], check=True)
        except subprocess.CalledProcessError:
            print("the peers cannot be installed: no comparison", file=sys.stderr)
            return None
        (folder / "ready").touch()
    return folder / "bin"


if __name__ == "__main__":
    main()
