"""How BERT's samples are made, as a configuration says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mcc.core.config import option
from mcc.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How BERT's samples are made of sentences.

    Raises:
        UsageError: a probability is not one.
    """

    mask_prob: float = option(0.15, "share of a BERT sample's tokens that are predicted")
    short_seq_prob: float = option(0.1, "share of BERT samples with a short target length")
    max_ngrams: int = option(3, "words of the longest run that is masked together")
    pairs: Literal["order", "next", "none"] = option(
        "order",
        "second half of a BERT sample: swapped (order), of another document (next), or no halves (none)",
        flag="--bert-pairs",
    )

    def __post_init__(self) -> None:
        for name in ("mask_prob", "short_seq_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be between 0 and 1")
        if self.mask_prob == 0:
            raise UsageError("mask_prob = 0 leaves nothing to predict")
        if self.max_ngrams < 1:
            raise UsageError(f"max_ngrams = {self.max_ngrams} must be at least 1")

    @property
    def min_sentences(self) -> int:
        """Sentences that a sample needs."""
        return 1 if self.pairs == "none" else 2
