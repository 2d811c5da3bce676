"""How texts are continued: the choices a user has, and what they do to the next token's scores.

B rows   V vocabulary
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mcc.core.errors import UsageError

DEFAULT_NEW_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Greedy, unless a temperature, `top_k` or `top_p` asks for sampling, or `beams` for a beam search.

    Args:
        max_new_tokens: most tokens of a continuation [64, or as many as the model's context has room for].
        temperature: scores are divided by it; 0: greedy [1 when sampling].
        top_k: sample among so many likeliest tokens.
        top_p: sample among the likeliest tokens that together have this probability (nucleus sampling, Holtzman et
            al., arXiv 1904.09751).
        repetition_penalty: divides the positive scores of tokens that the text has already, and multiplies negative
            ones (CTRL, Keskar et al., arXiv 1909.05858, section 4.1).
        beams: continuations that a beam search follows at a time.
        length_penalty: a beam's score is its log-likelihood / (new tokens ** this).
        num_samples: continuations of each prompt: drawn, or the best beams.
        stop: a continuation ends before any of these.
        ignore_eos: go on where the model ends a text.
        seed: of the draws.

    Raises:
        UsageError: a value is out of its range, or two do not go together.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    seed: int = 1234

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "beams", "num_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{_flag(name)} {value} must be at least 1")
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise UsageError(f"--temperature {self.temperature} must not be negative", "0 is greedy")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p} must be above 0 and at most 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UsageError(f"--repetition-penalty {self.repetition_penalty} must be above 0", "1 is none")
        if not math.isfinite(self.length_penalty):
            raise UsageError(f"--length-penalty {self.length_penalty} must be a finite number")
        if "" in self.stop:
            raise UsageError("--stop '' would end every continuation before it begins")
        drawn = [_flag(name) for name in ("temperature", "top_k", "top_p") if getattr(self, name) is not None]
        if self.beams > 1 and drawn:
            raise UsageError(f"{drawn[0]} with --beams: a beam search draws nothing", "give one of them")
        if self.temperature == 0 and len(drawn) > 1:
            raise UsageError(f"--temperature 0 is greedy: {drawn[1]} has no effect", "drop one of them")
        if self.num_samples > max(self.beams, 1) and not self.samples:
            if self.beams > 1:
                raise UsageError(f"--num-samples {self.num_samples} of --beams {self.beams}", "follow as many beams")
            raise UsageError(
                f"--num-samples {self.num_samples}: greedy continuations of a prompt are all the same",
                "--temperature 1 draws different ones",
            )
        if self.beams == 1 and self.length_penalty != 1.0:
            raise UsageError("--length-penalty is a beam search's", "--beams 4")

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature != 0 and (self.temperature, self.top_k, self.top_p) != (None, None, None)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def penalized(scores_BV: Tensor, texts: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Scores with the repetition penalty.

    Args:
        scores_BV: logits or log-probabilities.
        texts: the tokens that each row has so far.
        penalty: 1: none.
    """
    if penalty == 1:
        return scores_BV
    longest = max(map(len, texts))
    rows = [[*text, *[text[0]] * (longest - len(text))] for text in texts]
    seen = torch.tensor(rows, device=scores_BV.device)
    found = scores_BV.gather(1, seen)
    return scores_BV.scatter(1, seen, torch.where(found < 0, found * penalty, found / penalty))


def distribution(logits_BV: Tensor, texts: Sequence[Sequence[int]], decoding: Decoding) -> Tensor:
    """Probabilities [B, V] that the next token is drawn with: penalty, temperature, top-k, top-p, in this order.

    Ties of the k-th score stay; of tokens together above `top_p` the one that reaches it stays.
    """
    scores = penalized(logits_BV, texts, decoding.repetition_penalty)
    if decoding.temperature is not None:
        scores = scores / decoding.temperature
    if decoding.top_k is not None and decoding.top_k < scores.shape[-1]:
        least = scores.topk(decoding.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if decoding.top_p is not None and decoding.top_p < 1:
        ordered, order = scores.sort(-1)  # the least likely first: sums of small numbers are exact
        dropped = ordered.softmax(-1).cumsum(-1) <= 1 - decoding.top_p
        dropped[:, -1] = False
        scores = scores.masked_fill(dropped.scatter(1, order, dropped), -torch.inf)
    return scores.softmax(-1)


def draws(seed: int, prompt: int, sample: int) -> torch.Generator:
    """The numbers that choose the tokens of one sample: no other sample's draws change them."""
    digest = hashlib.blake2b(f"{seed}/{prompt}/{sample}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def drawn(probabilities_BV: Tensor, numbers: Sequence[float]) -> Tensor:
    """The tokens [B] at `numbers` in [0, 1) of the cumulated probabilities: each as likely as it should be."""
    cumulated = probabilities_BV.double().cumsum(-1)
    at = torch.tensor(numbers, dtype=torch.float64, device=cumulated.device)[:, None] * cumulated[:, -1:]
    tokens = torch.searchsorted(cumulated, at, right=True).squeeze(1)
    # Rounding may lead beyond the last token that has a probability.
    last = cumulated.shape[-1] - 1 - (probabilities_BV > 0).flip(-1).int().argmax(-1)
    return torch.minimum(tokens, last)
