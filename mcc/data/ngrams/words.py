"""Words of many texts at once: where `\\w+` stands in UTF-8 text, and a number for each word.

A regular expression takes a text word by word; here a few numpy passes take megabytes of texts together. Words are
found as Python's `re` finds them, non-ASCII letters too. The number of a word comes from its first 8 bytes and its
length: equal words have equal numbers, and others seldom do.
"""

# W words, N bytes of all texts with one byte between them

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The one character whose lower-case form is longer than itself; positions must stay those of the text.
_DOTTED_I = "\u0130"
_WORD = re.compile(r"\w+")
_BETWEEN = b"\n"
# 1 where a byte belongs to a word; bytes of non-ASCII characters are looked at again.
_IN_WORD = bytes(int(byte >= 0x80 or chr(byte).isalnum() or byte == ord("_")) for byte in range(256))
_FIRST_BYTES = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)
_MIX_WORD, _MIX_LENGTH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_CODE_POINTS = 0x110000
_UNKNOWN = 2
# Whether a code point belongs to words, once somebody asked.
_classes = np.full(_CODE_POINTS, _UNKNOWN, dtype=np.uint8)


def find_words(text: str) -> list[str]:
    """The words of one text, in lower case."""
    return _WORD.findall(lower(text))


def lower(text: str) -> str:
    """`text.lower()`, of the same length as `text`."""
    return (text.replace(_DOTTED_I, "i") if _DOTTED_I in text else text).lower()


@dataclass(frozen=True)
class Words:
    """The words of some texts.

    Args:
        texts: the texts in lower case.
        encoded: all of them as UTF-8, one byte after each.
        offsets: where each text begins in `encoded`, and the end [texts + 1].
        starts, ends: bytes of every word in `encoded` [W].
        values: a number for every word [W].
    """

    texts: list[str]
    encoded: bytes
    offsets: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    values: NDArray[np.uint64]

    def of(self, text: int) -> slice:
        """Which words are those of one text."""
        first, last = np.searchsorted(self.starts, self.offsets[text : text + 2])
        return slice(int(first), int(last))

    def characters(self, text: int) -> tuple[list[int], list[int]]:
        """Where the words of one text start and end, in characters of it."""
        mine = self.of(text)
        base = int(self.offsets[text])
        starts, ends = self.starts[mine] - base, self.ends[mine] - base
        if not self.texts[text].isascii():
            data = np.frombuffer(self.encoded, np.uint8, int(self.offsets[text + 1]) - base, base)
            # Bytes that go on with a character do not count.
            before = np.concatenate(([0], np.cumsum((data & 0xC0) == 0x80)))
            starts, ends = starts - before[starts], ends - before[ends]
        return starts.tolist(), ends.tolist()


def split_words(texts: Sequence[str]) -> Words:
    """The words of `texts`.

    >>> words = split_words(["One two", "naïve, 3"])
    >>> [words.encoded[start:end].decode() for start, end in zip(words.starts, words.ends)]
    ['one', 'two', 'naïve', '3']
    >>> words.characters(1)
    ([0, 7], [5, 8])
    """
    lowered = [lower(text) for text in texts]
    pieces = [text.encode() for text in lowered]
    offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) + 1 for piece in pieces], out=offsets[1:])
    encoded = _BETWEEN.join([*pieces, b""])
    inside = np.empty(len(encoded) + 1, dtype=np.uint8)
    inside[0] = 0
    inside[1:] = np.frombuffer(encoded.translate(_IN_WORD), dtype=np.uint8)
    if not encoded.isascii():
        _clear_other_characters(np.frombuffer(encoded, dtype=np.uint8), inside[1:])
    # The last byte is no part of a word, so that starts and ends take turns.
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    return Words(lowered, encoded, offsets, starts, ends, _values(encoded, starts, ends))


def _clear_other_characters(data: NDArray[np.uint8], inside: NDArray[np.uint8]) -> None:
    """Take non-ASCII characters that are no letters or digits out of words."""
    leads = np.flatnonzero(data >= 0xC0)
    lead = data[leads].astype(np.int32)
    size = 2 + (lead >= 0xE0).astype(np.int32) + (lead >= 0xF0)
    code = lead & (0x7F >> size)
    for i in range(1, 4):
        more = size > i
        following = data[np.minimum(leads + i, len(data) - 1)].astype(np.int32) & 0x3F
        code = np.where(more, (code << 6) | following, code)
    classes = _classes[code]
    if (classes == _UNKNOWN).any():
        for point in np.unique(code[classes == _UNKNOWN]).tolist():
            _classes[point] = chr(point).isalnum()
        classes = _classes[code]
    others = leads[classes == 0]
    sizes = size[classes == 0]
    for i in range(4):
        inside[others[sizes > i] + i] = 0


def _values(encoded: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for every word: its first 8 bytes and its length, mixed."""
    aligned = np.frombuffer(encoded + bytes(16 - len(encoded) % 8), dtype="<u8")
    at = starts >> 3
    shift = ((starts & 7) << 3).astype(np.uint64)
    # A shift by 64 is none in C: shift by 63 at most, and by one more.
    first = (aligned[at] >> shift) | ((aligned[at + 1] << np.uint64(1)) << (np.uint64(63) - shift))
    lengths = ends - starts
    first &= _FIRST_BYTES[np.minimum(lengths, 8)]
    first *= _MIX_WORD
    first ^= first >> np.uint64(29)
    first += lengths.astype(np.uint64) * _MIX_LENGTH
    first *= _MIX_WORD
    return first
