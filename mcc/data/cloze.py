"""A held-out cloze task in LAMBADA's format: passages whose last word is to be predicted from what precedes it.

As in LAMBADA (Paperno et al. 2016) the word needs the passage, not only its sentence; here that is made sure by its
having occurred in the passage before. A line is `{"text": PASSAGE}`; one space stands before the last word.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.base.documents import ReadConfig, Record
from mcc.data.base.step import Step, StepReport

_WORD = re.compile(r"\S+")
# Words that grammar alone foretells make the task about grammar.
_FUNCTION_WORDS = frozenset(
    """
    about after also been before being between both cannot could does down each else even ever every from have
    having here however into itself just like made make many might more most much must neither none only onto
    other over same shall should since some such than that their them then there these they this those through
    thus under until upon very well were what when where whether which while will with within without would
    your
    """.split()  # noqa: SIM905 - a hundred quoted strings are harder to read
)
_SENTENCE_END = (".", "!", "?", ":")


@dataclass(frozen=True, kw_only=True)
class ClozeConfig:
    """Which passages are taken.

    Raises:
        UsageError: a bound is not positive, or the shortest passage is longer than the longest.
    """

    count: int = option(300, "passages to make, fewer when the documents hold fewer")
    min_words: int = option(20, "words of the shortest passage")
    max_words: int = option(60, "words of the longest passage")
    min_letters: int = option(4, "letters of the shortest word to predict")
    per_document: int = option(4, "passages taken from one document at most")
    seed: int = option(1234, "seed of the choice")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        for name in ("count", "min_words", "min_letters", "per_document"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.min_words > self.max_words:
            raise UsageError(f"min_words = {self.min_words} is more than max_words = {self.max_words}")


@dataclass(frozen=True, kw_only=True)
class ClozeReport(StepReport):
    """`documents_out` are passages."""

    candidates: int


def passages(text: str, config: ClozeConfig) -> list[str]:
    """Every passage of `text` that the rule allows, in order; they may overlap."""
    words = list(_WORD.finditer(text))
    bare = [word[0].strip(".,;:!?\"'`*()[]{}").lower() for word in words]
    starts = [i for i in range(len(words)) if _begins(text, words, i)]
    found = []
    first = 0
    for end in range(config.min_words - 1, len(words)):
        target = words[end][0]
        if not (target.isascii() and target.isalpha() and len(target) >= config.min_letters):
            continue
        if target.lower() in _FUNCTION_WORDS or not _after_one_space(text, words, end):
            continue
        # The longest passage that begins where a sentence does.
        while first < len(starts) and starts[first] <= end - config.max_words:
            first += 1
        if first == len(starts) or starts[first] > end - config.min_words + 1:
            continue
        if target.lower() in bare[starts[first] : end]:
            found.append(text[words[starts[first]].start() : words[end].end()])
    return found


def _begins(text: str, words: Sequence[re.Match[str]], i: int) -> bool:
    """Whether word `i` begins a sentence or a paragraph."""
    return i == 0 or words[i - 1][0].endswith(_SENTENCE_END) or "\n\n" in text[words[i - 1].end() : words[i].start()]


def _after_one_space(text: str, words: Sequence[re.Match[str]], i: int) -> bool:
    """LAMBADA's readers split at the last space."""
    return i > 0 and text[words[i - 1].end() : words[i].start()] == " "


def make_cloze(documents: Iterable[Record], config: ClozeConfig | None = None) -> tuple[list[Record], int]:
    """Passages of held-out documents, chosen by seed, in the documents' order; and how many there were to choose from.

    The choice needs memory for `count` passages only (reservoir sampling, Vitter 1985).
    """
    config = config or ClozeConfig()
    generator = random.Random(config.seed)
    kept: list[tuple[int, str]] = []
    seen = candidates = 0
    for record in documents:
        found = passages(record[config.read.keys[0]], config)
        candidates += len(found)
        for passage in _apart(found, config.per_document, generator):
            seen += 1
            if len(kept) < config.count:
                kept.append((seen, passage))
            elif (slot := generator.randrange(seen)) < config.count:
                kept[slot] = (seen, passage)
    return [{"text": passage} for _, passage in sorted(kept)], candidates


def _apart(found: list[str], count: int, generator: random.Random) -> list[str]:
    """Up to `count` passages of one document, at most one for each beginning, so that they do not overlap much."""
    by_start: dict[str, list[str]] = {}
    for passage in found:
        by_start.setdefault(passage[:80], []).append(passage)
    chosen = [generator.choice(group) for group in by_start.values()]
    picked = sorted(generator.sample(range(len(chosen)), min(count, len(chosen))))
    return [chosen[i] for i in picked]


def cloze(
    inputs: Sequence[str | Path], output: Path, config: ClozeConfig | None = None, reporter: Reporter = SILENT
) -> ClozeReport:
    """Write a cloze task made from held-out documents.

    Raises:
        MccError: no passage satisfies the rule; nothing is written.
    """
    config = config or ClozeConfig()
    step = Step("cloze", inputs, output, read=config.read, reporter=reporter)
    with step:
        found, candidates = make_cloze(step.records(), config)
        if not found:
            raise MccError(
                f"no passage of {config.min_words} to {config.max_words} words in {step.documents_in} documents",
                "give longer documents, or a smaller min-words",
            )
        for record in found:
            step.write_line(orjson.dumps(record))
    if len(found) < config.count:
        reporter.warn(f"cloze: {len(found)} passages, {config.count} were asked for")
    chars = sum(len(record["text"]) for record in found)
    return step.report(ClozeReport, chars_out=chars, candidates=candidates)
