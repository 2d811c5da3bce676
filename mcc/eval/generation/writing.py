"""A continuation as it comes: whole characters, and nothing that may still turn out to be a stop string."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Literal

from mcc.eval.tokenizer import TextTokenizer

Finish = Literal["eos", "stop", "length"]

# New tokens are decoded with so many before them: some tokenizers drop a text's first space.
_CONTEXT = 8
_BROKEN = "\ufffd"  # stands for bytes that are no character yet


class Writing:
    """The new tokens of one continuation, and their text.

    Args:
        tokenizer: the model's.
        context: the prompt's tokens, for the decoder's rules about spaces; none where the new tokens stand alone.
        limit: most new tokens.
        stops: the text ends before any of these.
        ends: tokens that end a text; they have no text themselves.

    Attributes:
        tokens: the new ones, that which ended the text included.
        text: theirs, as far as it is whole characters; cut at a stop string.
        finish: why the continuation ended; None while it goes on.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        context: Sequence[int],
        limit: int,
        stops: Sequence[str] = (),
        ends: Collection[int] = (),
    ) -> None:
        self.tokenizer, self.limit, self.stops, self.ends = tokenizer, limit, stops, ends
        self.tokens: list[int] = []
        self.text = ""
        self.finish: Finish | None = None
        # Only the last tokens are decoded, from `_from` on; those before `_to` are in `text` already.
        self._window = list(context[-_CONTEXT:])
        self._to = len(self._window)
        self._given = 0

    def extend(self, token: int) -> str:
        """Take the next token. The text that is certain now and was not before; may be empty."""
        assert self.finish is None, "the continuation has ended"
        self.tokens.append(token)
        ended = token in self.ends
        if not ended:
            self._window.append(token)
        if ended or len(self.tokens) == self.limit:
            self.finish = "eos" if ended else "length"
        self._decode(whole=self.finish is None)
        return self._give()

    def copy(self) -> Writing:
        """Another that goes on from here."""
        other = copy.copy(self)
        other.tokens, other._window = list(self.tokens), list(self._window)
        return other

    def _decode(self, whole: bool) -> None:
        before = self._text(self._window[: self._to])
        now = self._text(self._window)
        if whole and now.endswith(_BROKEN):
            return
        start = len(self.text)
        self.text += now[len(before) :]
        self._window = self._window[-_CONTEXT:]
        self._to = len(self._window)
        searched = max(0, start - max(map(len, self.stops), default=0) + 1)
        cut = min((at for stop in self.stops if (at := self.text.find(stop, searched)) >= 0), default=None)
        if cut is not None:
            self.text, self.finish = self.text[:cut], "stop"

    def _give(self) -> str:
        """What is new of the text, but for an end that a stop string begins with."""
        end = len(self.text)
        if self.finish is None:
            longest = max(map(len, self.stops), default=0)
            for start in range(max(self._given, end - longest + 1), end):
                if any(stop.startswith(self.text[start:]) for stop in self.stops):
                    end = start
                    break
        new, self._given = self.text[self._given : end], max(self._given, end)
        return new

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special=True)
