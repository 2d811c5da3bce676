"""Log-likelihoods and next tokens of one model, in batches of rows of like length.

B rows   T tokens   D hidden size   N scored positions   V vocabulary here: a tensor-parallel rank's part of it

Rows are padded on the right: attention is causal, so padding changes no score and the batch size none either. On
several ranks each replica of the model takes its share of the batches; the stages of a replica work on one after
another, and a stage begins the next while its successor computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcc.core.errors import MccError
from mcc.eval.answers import content, together
from mcc.eval.packing import Row, Span, arrange, pack
from mcc.eval.place import Place
from mcc.models.base.transformer import Stage

__all__ = ["DEFAULT_BATCH_TOKENS", "Score", "Scorer", "Span"]

DEFAULT_BATCH_TOKENS = 4096
# Logits of this many positions exist at a time: 100 MB in float32 for 50,000 tokens.
_LOGIT_ROWS = 512
# Batches of each replica, and of each stage, between two moments when the leader hears of results.
_ROUND = 4


@dataclass(frozen=True)
class Score:
    """The sum of the targets' log-probabilities (nats), and whether each target is its position's most likely token."""

    log_likelihood: float
    is_greedy: bool


class Scorer:
    """Scores spans with a model on the device that it lies on.

    Args:
        model: this rank's part of it.
        batch_tokens: most tokens of a forward pass, padding included; one row always fits.
        place: this rank among others; alone, it has the whole model.
        sharing: compute once what spans have in common at their beginning.
        alike: batch only rows of one length, without padding: for codecs, which see it.
    """

    def __init__(
        self,
        model: Stage,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        place: Place | None = None,
        sharing: bool = True,
        alike: bool = False,
    ) -> None:
        if batch_tokens < 1:
            raise MccError(f"batch_tokens = {batch_tokens} must be at least 1")
        self.place = place or Place()
        self.model, self.batch_tokens = model.eval(), batch_tokens
        self.sharing, self.alike = sharing and not alike, alike
        self.max_length = model.config.context
        self.vocab_size = model.config.vocab_size
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    def score(self, spans: Sequence[Span]) -> Iterator[tuple[int, Score]]:
        """(index into `spans`, score), longest rows first, as they are done. On the leader."""
        assert all(0 < len(span.inputs) <= self.max_length for span in spans), "cut them to the model's context first"
        rows = pack(spans, self.batch_tokens, self.sharing)
        batches = [[rows[i] for i in batch] for batch in self.batches([row.length for row in rows])]
        for batch, scores in self._shared("score", batches):
            owners = [owner for row in batch for owner in row.owners]
            yield from zip(owners, scores, strict=True)

    def next_tokens(self, sequences: Sequence[list[int]]) -> list[int]:
        """The most likely token after each sequence. On the leader."""
        rows = [Row((i,), (Span(sequence, [0]),), len(sequence)) for i, sequence in enumerate(sequences)]
        return [token for _, tokens in self._shared("next", [rows]) for token in tokens]

    def content(self) -> str:
        """A digest of the whole model's parameters, as it is cut. On the leader."""
        found: list[str] = self.place.share("content", [[]] * self.place.layout.dp, self.work)
        return found[0]

    def serve(self) -> None:
        """What ranks that do not lead do: their part of what the leader asks for, until it ends."""
        self.place.serve(self.work)

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of sequences that go together: like lengths, so that little is padding; longest first.

        The longest comes first so that a machine with too little memory says so at once.
        """
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        at = 0
        while at < len(order):
            rows = max(1, self.batch_tokens // max(1, lengths[order[at]]))
            if self.alike:
                rows = next(
                    (n for n in range(1, rows) if lengths[order[min(at + n, len(order) - 1)]] != lengths[order[at]]),
                    rows,
                )
            yield order[at : at + rows]
            at += rows

    def _shared(self, command: str, batches: Sequence[list[Row]]) -> Iterator[tuple[list[Row], list[Any]]]:
        layout = self.place.layout
        alone = self.place.control is None
        step = 1 if alone else layout.dp * max(_ROUND, _ROUND * (layout.pp - 1))
        for first in range(0, len(batches), step):
            part = batches[first : first + step]
            yield from zip(part, self.place.share(command, part, self.work), strict=True)

    @torch.inference_mode()
    def work(self, command: str, batches: Sequence[list[Row]]) -> list[Any]:
        """The results of each batch on the last stage, one a span; of no meaning on the others."""
        if command == "content":
            return [together(self.place.gather(content(self.model)))] * len(batches)
        results: list[Any] = []
        sent = []  # until the next stage has it
        for batch in batches:
            tokens_BT, extras = arrange(batch, self.device)
            x = tokens_BT
            if not self.model.first:
                shape = (*tokens_BT.shape, self.model.config.hidden_size)
                x = self.place.receive(shape, self.model.compute_dtype or self.dtype)
            hidden_BTD = self.model.hidden(x, extras)
            if not self.model.last:
                sent.append(self.place.send(hidden_BTD))
                results.append([])
                continue
            # The output layer is most of a small model's work: it runs on the scored positions alone.
            reads = [list(row.reads()) for row in batch]
            rows_ND = torch.cat([hidden_BTD[i, at] for i, at in enumerate(reads)])
            results.append(self._next(rows_ND) if command == "next" else self._scores(batch, rows_ND))
        for work, _ in sent:
            work.wait()
        return results

    def _scores(self, batch: Sequence[Row], rows_ND: Tensor) -> list[Score]:
        spans = [span for row in batch for span in row.spans]
        targets_N = torch.tensor([token for span in spans for token in span.targets], device=self.device)
        picked, greedy = [], []
        for rows, targets in zip(rows_ND.split(_LOGIT_ROWS), targets_N.split(_LOGIT_ROWS), strict=True):
            logits_NV = self._logits(rows)
            picked.append(self._log_probabilities(logits_NV, targets).double())
            greedy.append(self._most_likely(logits_NV) == targets)
        lengths = [len(span.targets) for span in spans]
        # To the host at once: on a GPU every number that is asked for alone waits for all work.
        parts = zip(torch.cat(picked).cpu().split(lengths), torch.cat(greedy).cpu().split(lengths), strict=True)
        return [Score(float(values.sum()), bool(equal.all())) for values, equal in parts]

    def _next(self, rows_ND: Tensor) -> list[int]:
        return torch.cat([self._most_likely(self._logits(part)) for part in rows_ND.split(_LOGIT_ROWS)]).tolist()

    def _log_probabilities(self, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        axes = self.place.axes
        if axes.size == 1:
            return logits_NV.log_softmax(-1).gather(-1, targets_N.unsqueeze(-1)).squeeze(-1)
        top = axes.max_(logits_NV.amax(-1))
        local = targets_N - axes.rank * logits_NV.shape[-1]
        here = (local >= 0) & (local < logits_NV.shape[-1])
        index = local.clamp(0, logits_NV.shape[-1] - 1).unsqueeze(-1)
        picked = (logits_NV.gather(-1, index).squeeze(-1) - top).masked_fill(~here, 0.0)
        total, picked = axes.sum_(torch.stack([(logits_NV - top.unsqueeze(-1)).exp().sum(-1), picked]))
        return picked - total.log()

    def _most_likely(self, logits_NV: Tensor) -> Tensor:
        """The first of the most likely tokens, as argmax gives it."""
        axes = self.place.axes
        best, index = logits_NV.max(-1)
        if axes.size == 1:
            return index
        top = axes.max_(best.clone())
        first = (index + axes.rank * logits_NV.shape[-1]).masked_fill(best < top, torch.iinfo(torch.int64).max)
        return -axes.max_(-first)

    def _logits(self, rows_ND: Tensor) -> Tensor:
        """This rank's logits [N, V] in float32; rows that pad the vocabulary are no tokens: minus infinity."""
        logits_NV = self.model.head(rows_ND)
        assert isinstance(logits_NV, Tensor)
        axes = self.place.axes
        if axes.size == 1:
            return logits_NV[:, : self.vocab_size].float()
        logits_NV = logits_NV.float()
        logits_NV[:, max(0, self.vocab_size - axes.rank * logits_NV.shape[-1]) :] = -torch.inf
        return logits_NV
