"""Log-likelihoods and next tokens of one model, in batches of sequences of like length.

B batch   T tokens   D hidden size   N scored positions   V vocabulary, without padding

Sequences are padded on the right: attention is causal, so padding changes no score and the batch size none either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mcc.core.errors import MccError
from mcc.models.base.transformer import Stage

DEFAULT_BATCH_TOKENS = 4096
# Logits of this many positions exist at a time: 100 MB in float32 for 50,000 tokens.
_LOGIT_ROWS = 512


@dataclass(frozen=True)
class Span:
    """What the model reads, and the tokens that its last positions should predict.

    Args:
        inputs: token ids, at most the model's context length.
        targets: `targets[-1]` follows `inputs[-1]`; at most as many as `inputs`.
    """

    inputs: list[int]
    targets: list[int]


@dataclass(frozen=True)
class Score:
    """The sum of the targets' log-probabilities (nats), and whether each target is its position's most likely token."""

    log_likelihood: float
    is_greedy: bool


class Scorer:
    """Scores spans with a whole model on the device that it lies on.

    Args:
        model: every layer, first and last stage in one, on one tensor-parallel rank.
        batch_tokens: most tokens of a forward pass, padding included; one sequence always fits.
    """

    def __init__(self, model: Stage, batch_tokens: int = DEFAULT_BATCH_TOKENS) -> None:
        if batch_tokens < 1:
            raise MccError(f"batch_tokens = {batch_tokens} must be at least 1")
        assert model.first and model.last, "the scorer needs a whole model"
        self.model, self.batch_tokens = model.eval(), batch_tokens
        self.max_length = model.config.positions
        self.vocab_size = model.config.vocab_size
        self.device = next(model.parameters()).device

    def score(self, spans: Sequence[Span]) -> Iterator[tuple[int, Score]]:
        """(index into `spans`, score), longest spans first, as they are done."""
        for batch in self.batches([len(span.inputs) for span in spans]):
            yield from zip(batch, self._score([spans[i] for i in batch]), strict=True)

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of sequences that go together: like lengths, so that little is padding; longest first.

        The longest comes first so that a machine with too little memory says so at once.
        """
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        at = 0
        while at < len(order):
            rows = max(1, self.batch_tokens // max(1, lengths[order[at]]))
            yield order[at : at + rows]
            at += rows

    @torch.inference_mode()
    def next_tokens(self, sequences: Sequence[list[int]]) -> list[int]:
        """The most likely token after each sequence."""
        hidden_BTD = self._hidden(sequences)
        last = [len(sequence) - 1 for sequence in sequences]
        rows_ND = hidden_BTD[torch.arange(len(sequences)), torch.tensor(last)]
        return torch.cat([self._logits(part).argmax(-1) for part in rows_ND.split(_LOGIT_ROWS)]).tolist()

    @torch.inference_mode()
    def _score(self, spans: Sequence[Span]) -> list[Score]:
        hidden_BTD = self._hidden([span.inputs for span in spans])
        # The output layer is most of a small model's work: it runs on the scored positions alone.
        rows_ND = torch.cat(
            [hidden_BTD[row, len(span.inputs) - len(span.targets) : len(span.inputs)] for row, span in enumerate(spans)]
        )
        targets_N = torch.tensor([token for span in spans for token in span.targets], device=self.device)
        picked, greedy = [], []
        for rows, targets in zip(rows_ND.split(_LOGIT_ROWS), targets_N.split(_LOGIT_ROWS), strict=True):
            logits_NV = self._logits(rows)
            log_probs = logits_NV.log_softmax(-1)
            picked.append(log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1).double())
            greedy.append(logits_NV.argmax(-1) == targets)
        lengths = [len(span.targets) for span in spans]
        parts = zip(torch.cat(picked).split(lengths), torch.cat(greedy).split(lengths), strict=True)
        return [Score(float(values.sum()), bool(equal.all())) for values, equal in parts]

    def _hidden(self, sequences: Sequence[list[int]]) -> Tensor:
        """Hidden states [B, T, D] after the last layer, before the final norm."""
        longest = max(len(sequence) for sequence in sequences)
        assert 0 < longest <= self.max_length, f"{longest} tokens do not fit the context of {self.max_length}"
        padded = [sequence + [0] * (longest - len(sequence)) for sequence in sequences]
        return self.model.hidden(torch.tensor(padded, device=self.device))

    def _logits(self, rows_ND: Tensor) -> Tensor:
        """Logits [N, V] in float32; rows that pad the vocabulary are no tokens."""
        return self.model.head(rows_ND)[:, : self.vocab_size].float()
