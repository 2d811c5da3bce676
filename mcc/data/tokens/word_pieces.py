"""BERT's word pieces trained from counted words, the same pieces with the same ids in every run.

The trainer of `tokenizers` numbers the letters within words in the order of a hash table, which changes from run to
run. Here all letters get their numbers first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from tokenizers import Tokenizer, models, trainers

from mcc.data.tokens.vocabulary import BERT_TOKENS, as_bert

# Distinct letters, at most; the others are unknown (the default of BERT's trainers).
_MOST_LETTERS = 1000
_WORD_CHARS = 100

Words = Callable[[], Iterable[tuple[str, int]]]
Feed = Callable[[Iterable[tuple[str, int]]], Iterator[list[str]]]


def train_word_pieces(words: Words, vocab_size: int, min_frequency: int, lowercase: bool, feed: Feed) -> Tokenizer:
    """A tokenizer like BERT's (Devlin et al. 2019).

    Args:
        words: gives (word, count), the same each time.
        vocab_size: pieces, with the special tokens and the letters.
        min_frequency: a pair must occur this often to be merged.
        lowercase: take case and accents off.
        feed: turns counted words into texts for the trainer.
    """
    tokenizer = as_bert(Tokenizer(models.WordPiece(unk_token="[UNK]")), lowercase)
    letters = _letters(tokenizer, words(), min(_MOST_LETTERS, vocab_size // 3))
    kept = {letter.removeprefix("##") for letter in letters}

    # Before training, not while it reads: the tokenizer is locked then.
    normalized = []
    for word, count in words():
        text = "".join(c for c in tokenizer.normalizer.normalize_str(word) if c in kept or c.isspace())
        if text and not text.isspace():
            normalized.append((text, count))

    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        # In this order; they become ordinary pieces below.
        special_tokens=[*BERT_TOKENS, *letters],
        show_progress=False,
    )
    tokenizer.train_from_iterator(feed(normalized), trainer)
    pieces = tokenizer.get_vocab(with_added_tokens=True)
    model = models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=_WORD_CHARS)
    return as_bert(Tokenizer(model), lowercase)


def _letters(tokenizer: Tokenizer, words: Iterable[tuple[str, int]], most: int) -> list[str]:
    """The most frequent letters, alone and (`##x`) behind others where they stand so, most frequent first."""
    alone: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    for word, count in words:
        text = tokenizer.normalizer.normalize_str(word)
        for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):
            alone.update(dict.fromkeys(piece, count))
            inside.update(dict.fromkeys(piece[1:], count))
    chosen = sorted(alone, key=lambda letter: (-alone[letter], letter))[:most]
    return [*chosen, *(f"##{letter}" for letter in chosen if letter in inside)]
