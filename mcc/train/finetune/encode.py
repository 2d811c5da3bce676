"""Texts to rows of tokens, as the model's own tokenizer marks them: [CLS] first [SEP] second [SEP] for BERT's."""

# S samples, R rows of a sample, T tokens

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mcc.core.errors import MccError
from mcc.train.finetune.task import Example

_PADDING = ("[PAD]", "<pad>", "<|padding|>")


class Encoder:
    """Makes padded rows of T tokens.

    Args:
        tokenizer: JSON of a `tokenizers.Tokenizer`.
        seq_length: T. Of a pair that is too long, the longer text loses its end first.
        first_text_tokens: the first text is cut to so many tokens before.
    """

    def __init__(self, tokenizer: str, seq_length: int, first_text_tokens: int | None = None) -> None:
        self._backend: Any = Tokenizer.from_str(tokenizer)
        self._backend.no_padding()
        self._backend.enable_truncation(max_length=seq_length, strategy="longest_first")
        self.seq_length, self.first_text_tokens = seq_length, first_text_tokens
        self.vocab_size: int = self._backend.get_vocab_size(with_added_tokens=True)
        ids = [self._backend.token_to_id(name) for name in _PADDING]
        self.pad = next((number for number in ids if number is not None), 0)

    def __call__(self, examples: Sequence[Example]) -> dict[str, NDArray[Any]]:
        """`tokens` and `token_types` int64[S*R, T], `padding` bool[S*R, T].

        Raises:
            MccError: a text has no tokens.
        """
        rows = [row for example in examples for row in example.rows]
        firsts = self._encode([first for first, _ in rows])
        seconds = self._encode([second or "" for _, second in rows])
        shape = (len(rows), self.seq_length)
        tokens, types = np.full(shape, self.pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        padding = np.zeros(shape, dtype=np.bool_)
        for i, ((_, text), first, second) in enumerate(zip(rows, firsts, seconds, strict=True)):
            if self.first_text_tokens is not None:
                first.truncate(self.first_text_tokens)
            whole = self._backend.post_process(first, None if text is None else second, True)
            length = len(whole.ids)
            if not length:
                raise MccError(f"the text {rows[i][0][:40]!r} has no tokens")
            tokens[i, :length], types[i, :length], padding[i, :length] = whole.ids, whole.type_ids, True
        return {"tokens": tokens, "token_types": types, "padding": padding}

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        found: list[Any] = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return found
