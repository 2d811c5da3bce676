"""What turns texts into token ids: the `tokenizers` package, or faster ways that must give the same ids.

`fastokens` (Rust, Apache-2.0) does byte-level BPE some 50 times faster than `tokenizers`, and knows no BERT. `words`
does BERT's word pieces: it asks `tokenizers` about each distinct word once. Neither is trusted: each is compared with
`tokenizers` before a run and on a sample of every block.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from mcc.core.errors import MccError, UsageError, unknown
from mcc.data.tokens.vocabulary import TextTokenizer, one_line

# Token ids of texts end to end, and how many each text has.
Encoded = tuple[NDArray[np.uint32], NDArray[np.int64]]

ENGINES = ("auto", "fastokens", "tokenizers", "words")
# Texts of one call to `tokenizers`, whose results are large.
_BATCH = 64
# `words` remembers at least as many words as this and at most twice as many, none of them longer than this.
_WORDS, _WORD_CHARS = 1 << 16, 64
# White space to Python that BERT's normalizer drops as control characters, put as such that is none to both.
_DROPPED = dict.fromkeys((0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x1F, 0x85), 0x01)
_HAS_DROPPED = re.compile("[\x0b\x0c\x1c-\x1f\x85]").search
_SAMPLE_TEXTS = 3
_SAMPLE_CHARS = 512
# What has told tokenizers apart: white space, contractions, digits, marks, joiners, planes beyond the first, controls.
_PROBES = (
    "",
    " ",
    "\n\n  \t x\r\n y \u00a0z\u2028\u3000",
    "Hello world, it's 2024! We'll see they'd DON'T I'M\u2019s.",
    "  leading and trailing  ",
    "a" * 300 + " " * 50 + "1234567890" * 7,
    "naïve café Straße İstanbul ΣΑΣ ǅ ﬁ",
    "e\u0301\u0327 \u0301x ̈ं नमस्ते สวัสดี مرحبا שלום 안녕하세요 日本語のテキスト 中文字符",
    "👨‍👩‍👧‍👦🏳️‍🌈 𝒳𝓎 𠀀 \U0010ffff \ufeff\u200b\u200d\ufffd",
    "\x00\x01\x07\x0b x\x0cy\x1cz [SE\x1dP]\x1b\x7f\x85 \ufdd0",
    "²³¹½Ⅷ٣४ x_y__z --- ... !!! <|endoftext|> <s></s> [SEP] [CLS] [MASK] <unk> <extra_id_0>",
    "def f(x):\n    return {'a': [1, 2.5e-3]}  # comment\n\n\n",
)


class EngineMismatch(MccError):
    """A fast engine gave other ids than `tokenizers`."""


class Engine(ABC):
    """Texts to ids with one way to do it."""

    name: str

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of all texts end to end, and the number of each text's."""


class TokenizersEngine(Engine):
    """The `tokenizers` package, on one core."""

    name = "tokenizers"

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._encode, self._special = tokenizer.backend.encode, tokenizer.special

    def encode(self, texts: Sequence[str]) -> Encoded:
        pieces: list[NDArray[np.uint32]] = []
        lengths: list[int] = []
        for start in range(0, len(texts), _BATCH):
            ids = [self._encode(text, add_special_tokens=self._special).ids for text in texts[start : start + _BATCH]]
            lengths += map(len, ids)
            pieces.append(np.fromiter(chain.from_iterable(ids), dtype=np.uint32, count=sum(map(len, ids))))
        return _joined(pieces), np.array(lengths, dtype=np.int64)


class TransformersEngine(Engine):
    """A tokenizer of transformers that is written in Python."""

    name = "transformers"

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._call, self._special = tokenizer.backend, tokenizer.special

    def encode(self, texts: Sequence[str]) -> Encoded:
        ids = [self._call(text, add_special_tokens=self._special).input_ids for text in texts]
        return (
            np.fromiter(chain.from_iterable(ids), dtype=np.uint32),
            np.fromiter(map(len, ids), dtype=np.int64, count=len(ids)),
        )


class FastokensEngine(Engine):
    """The `fastokens` package, on one core.

    Raises:
        ValueError: it does not know this kind of tokenizer.
    """

    name = "fastokens"

    def __init__(self, tokenizer: TextTokenizer) -> None:
        import fastokens

        # Its threads are made at the first call: here one process is one core, `workers` says how many.
        with _environment("RAYON_NUM_THREADS", "1"), _environment("FASTOKENS_BPE_THREADS", "1"):
            self._fast: Any = fastokens.Tokenizer.from_json_str(tokenizer.layout)
            self._fast.encode_batch_flat(["a", "b"])
        self._special = tokenizer.special

    def encode(self, texts: Sequence[str]) -> Encoded:
        ids, ends = self._fast.encode_batch_flat(list(texts), add_special_tokens=self._special)
        places = np.frombuffer(ends, dtype="<u8").astype(np.int64)
        return np.frombuffer(ids, dtype="<u4"), places[1:] - places[:-1]


class WordsEngine(Engine):
    """BERT's word pieces by a table of words: a text's ids are the ids of what white space separates, in order.

    BERT's normalizer and splitter look at one character at a time and white space ends every piece, so nothing
    reaches from one word into the next.

    Raises:
        ValueError: the tokenizer is no such one.
    """

    name = "words"

    def __init__(self, tokenizer: TextTokenizer) -> None:
        backend: Tokenizer = tokenizer.backend
        if not (
            isinstance(backend.normalizer, normalizers.BertNormalizer)
            and isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        ):
            raise ValueError("not BERT's way to split texts")
        added = backend.get_added_tokens_decoder().values()
        if any(
            t.lstrip or t.rstrip or t.single_word or t.normalized or t.content.split() != [t.content] for t in added
        ):
            raise ValueError("its added tokens reach beyond words")
        self._encode = backend.encode
        # When the newer table is full it becomes the older one; words that are met again move on to the next.
        self._newer: dict[str, tuple[int, ...]] = {}
        self._older: dict[str, tuple[int, ...]] = {}
        around = backend.encode("", add_special_tokens=True).ids if tokenizer.special else []
        self._before, self._after = tuple(around[:1]), tuple(around[1:])

    def encode(self, texts: Sequence[str]) -> Encoded:
        pieces: list[NDArray[np.uint32]] = []
        lengths: list[int] = []
        for text in texts:
            known = self._newer
            words = (text.translate(_DROPPED) if _HAS_DROPPED(text) else text).split()
            try:
                ids = list(map(known.__getitem__, words))
            except KeyError:
                ids = [known.get(word) or self._learn(word) for word in words]
            flat = list(chain(self._before, chain.from_iterable(ids), self._after))
            lengths.append(len(flat))
            pieces.append(np.array(flat, dtype=np.uint32))
        return _joined(pieces), np.array(lengths, dtype=np.int64)

    def _learn(self, word: str) -> tuple[int, ...]:
        ids = self._older.get(word)
        if ids is None:
            ids = tuple(self._encode(word, add_special_tokens=False).ids)
        if len(word) <= _WORD_CHARS:
            if len(self._newer) >= _WORDS:
                self._older, self._newer = self._newer, {}
            self._newer[word] = ids
        return ids


_CLASSES: dict[str, type[Engine]] = {cls.name: cls for cls in (FastokensEngine, WordsEngine, TokenizersEngine)}


def make_engine(name: str, tokenizer: TextTokenizer) -> Engine:
    """The engine called `name`, the name of one that `choose_engine` gave."""
    if name == TransformersEngine.name:
        return TransformersEngine(tokenizer)
    cls: Any = _CLASSES[name]
    made: Engine = cls(tokenizer)
    return made


def choose_engine(name: str, tokenizer: TextTokenizer) -> tuple[Engine, str | None]:
    """The engine to take, and why it is not the fast one.

    Args:
        name: one of `ENGINES`; auto takes the first that knows the tokenizer and gives the ids of `tokenizers`.
        tokenizer: for which one.

    Raises:
        UsageError: the engine asked for does not exist, is not installed, or does not know the tokenizer.
        EngineMismatch: it gives other ids.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if not isinstance(tokenizer.backend, Tokenizer):
        if name in ("fastokens", "words"):
            raise UsageError(f"--engine {name} does not know {tokenizer.source}", "--engine auto")
        return TransformersEngine(tokenizer), None
    reasons = []
    for candidate in ("fastokens", "words") if name == "auto" else (name,):
        try:
            engine = make_engine(candidate, tokenizer)
            check(engine, tokenizer, _PROBES)
            return engine, None
        except EngineMismatch as error:
            if name != "auto":
                raise
            reasons.append(error.what)
        except Exception as error:
            # The package raises what it likes: not installed, or a tokenizer that it does not know.
            if name != "auto":
                raise UsageError(
                    f"--engine {name} cannot do {tokenizer.source}: {one_line(error)}", "--engine auto"
                ) from error
            reasons.append(f"{candidate}: {one_line(error)}")
    return TokenizersEngine(tokenizer), "; ".join(reasons)


def check(engine: Engine, tokenizer: TextTokenizer, texts: Sequence[str]) -> None:
    """Compare an engine with `tokenizers`.

    Raises:
        EngineMismatch: they give other ids for one of the texts.
    """
    ids, lengths = engine.encode(texts)
    expected, counts = TokenizersEngine(tokenizer).encode(texts)
    if np.array_equal(lengths, counts) and np.array_equal(ids, expected):
        return
    ends, wanted = np.cumsum(lengths), np.cumsum(counts)
    for i, text in enumerate(texts):
        given = ids[ends[i] - lengths[i] : ends[i]]
        if not np.array_equal(given, expected[wanted[i] - counts[i] : wanted[i]]):
            raise EngineMismatch(
                f"engine {engine.name} gives other ids than tokenizers for {text[:60]!r}", "--engine tokenizers"
            )


def sample(texts: Sequence[str], number: int) -> list[str]:
    """A few short pieces of some texts, for `check`: others for every `number`, the same for the same number."""
    if not texts:
        return []
    chosen = []
    for i in range(_SAMPLE_TEXTS):
        text = texts[(number * 31 + i * len(texts) // _SAMPLE_TEXTS) % len(texts)]
        start = (number * 7919 + i * 104729) % max(len(text) - _SAMPLE_CHARS, 1)
        chosen.append(text[start : start + _SAMPLE_CHARS])
    return chosen


def _joined(pieces: list[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.uint32)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
