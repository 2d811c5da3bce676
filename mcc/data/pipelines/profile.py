"""What documents are like: how many, how long, of which language, how many tokens. In blocks, as every step.

Lengths are counted of all documents. Tokens and languages are told of a sample: the documents whose text hashes below a
bound, which are the same ones after every step, whatever order they are in.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from mcc.core.events import Reporter
from mcc.data.base.blocks import Block, RecordSource
from mcc.data.base.job import Job, Map, Single, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output
from mcc.data.base.records import ReadConfig
from mcc.data.base.step import StepReport
from mcc.data.base.work import Work
from mcc.data.tokens.engines import choose_engine
from mcc.data.tokens.vocabulary import TokenizerFiles

_LOOK, _SUM = "profile", "sum"
_FILE = "profile.json"
# So much of a text tells its language.
_LANGUAGE_CHARS = 1000
_BATCH_CHARS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """How documents are looked at.

    Args:
        documents: how many there are, which sets the share that is sampled.
        tokenizer: counts tokens; None for words between white space.
        sample, languages: documents whose tokens are counted and whose language is told, about; `sample = 0`: all.
        key: of the text.
    """

    documents: int
    tokenizer: TokenizerFiles | None = None
    sample: int = 1000
    languages: int = 200
    key: str = "text"


def profile_job(inputs: Sequence[str | Path], output: Path, config: ProfileConfig) -> Job[StepReport]:
    """Write a JSON object to `output`: what `read_profile` gives."""
    read = ReadConfig(keys=(config.key,), max_errors=1 << 62)
    outputs = (Output(output, file=_FILE),)

    def report(counts: Counter[str], work: Work) -> StepReport:
        counts["documents_out"] = counts["documents_in"]
        return step_report(StepReport, _LOOK, counts, work, outputs, read.max_errors)

    return Job(
        name=_LOOK,
        output=output,
        key=[config.documents, repr(config.tokenizer), config.sample, config.languages, config.key],
        phases=(
            Map(name=_LOOK, source=RecordSource(inputs, read), make=partial(_look, config, read), streams={}),
            Single(name=_SUM, run=partial(_sum, config)),
        ),
        outputs=outputs,
        report=report,
    )


def _look(config: ProfileConfig, read: ReadConfig, _: Work) -> Callable[[Block, Part], None]:
    count = _counter(config.tokenizer)
    language = _language()
    sampled = _bound(config.sample, config.documents) if config.sample else 1 << 64
    told = _bound(config.languages, config.documents)

    def apply(block: Block, out: Part) -> None:
        counts = out.counts
        texts: list[str] = []
        waiting = 0
        for _, record in block.records(read, out):
            text = record[config.key]
            raw = text.encode()
            counts["bytes"] += len(raw)
            counts[f"length:{len(text).bit_length()}"] += 1
            place = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")
            if place < told:
                counts[f"language:{language(text[:_LANGUAGE_CHARS])}"] += 1
            if place < sampled:
                counts["sampled"] += 1
                counts["sampled_bytes"] += len(raw)
                texts.append(text)
                waiting += len(text)
                if waiting >= _BATCH_CHARS:
                    counts["sampled_tokens"] += count(texts)
                    texts, waiting = [], 0
        if texts:
            counts["sampled_tokens"] += count(texts)

    return apply


def _bound(wanted: int, documents: int) -> int:
    return min((wanted << 64) // max(documents, 1), 1 << 64)


def _counter(tokenizer: TokenizerFiles | None) -> Callable[[list[str]], int]:
    if tokenizer is None:
        return lambda texts: sum(len(text.split()) for text in texts)
    loaded = tokenizer.read()
    engine, _ = choose_engine("auto", loaded)
    return lambda texts: int(engine.encode(texts)[1].sum())


def _language() -> Callable[[str], str]:
    from mcc.data.text import languages

    engine = languages.make("langdetect")

    @lru_cache(maxsize=4096)
    def tell(text: str) -> str:
        return engine.find(text)[0] or "unknown"

    return tell


def _sum(config: ProfileConfig, work: Work, _: Reporter) -> None:
    counts = work.counts(_LOOK)

    def group(kind: str) -> dict[str, int]:
        return {name.partition(":")[2]: n for name, n in sorted(counts.items()) if name.startswith(f"{kind}:")}

    exact = counts["sampled"] == counts["documents_in"]
    tokens = counts["sampled_tokens"]
    if not exact and counts["sampled_bytes"]:
        tokens = round(tokens * counts["bytes"] / counts["sampled_bytes"])
    found: dict[str, Any] = {
        "documents": counts["documents_in"],
        "chars": counts["chars_in"],
        "bytes": counts["bytes"],
        "tokens": tokens if counts["sampled"] else None,
        "tokens_exact": exact,
        "tokens_of": _name(config.tokenizer),
        "sampled": counts["sampled"],
        "lengths": {str((1 << int(bits)) >> 1): n for bits, n in sorted(group("length").items(), key=_number)},
        "languages": dict(sorted(group("language").items(), key=lambda item: (-item[1], item[0]))),
    }
    work.path(_FILE).write_text(json.dumps(found), encoding="utf-8")


def _name(tokenizer: TokenizerFiles | None) -> str:
    return "words" if tokenizer is None else str(tokenizer.model or tokenizer.vocab_file)


def _number(item: tuple[str, int]) -> int:
    return int(item[0])


def read_profile(path: Path) -> dict[str, Any]:
    """What `profile_job` wrote: documents, chars, bytes, tokens (all, from the sample), lengths (least characters of a
    bin -> documents; bins double), languages (of the sample)."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
