"""Beam search: the likeliest continuations as wholes, some at a time (Graves, arXiv 1211.3711, section 2.4).

Step by step the candidates are the beams with every next token. The best ones that go on are the new beams; those that
end are finished where they are among the best `beams`, scored by log-likelihood / (new tokens ** length penalty). A
search is over when its best beam, at its present length, scores no better than its worst finished continuation and
there are as many of these as beams. That is transformers' rule (its `early_stopping=False`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from mcc.eval.generation.decoding import Decoding, penalized
from mcc.eval.generation.reader import Reader
from mcc.eval.generation.sampling import Text


class _Search:
    """The search of one prompt."""

    def __init__(self, text: Text, decoding: Decoding) -> None:
        self.beams, self.length_penalty = decoding.beams, decoding.length_penalty
        self.width = width(text, decoding)
        self.running = [text]
        self.finished: list[Text] = []

    def step(self, candidates: Sequence[Sequence[float]]) -> list[int]:
        """Take the next token of every beam; which of the beams each new one goes on from.

        Args:
            candidates: of each beam, its likeliest tokens and their scores: token, score, token, score, ...
        """
        pairs = [
            (beam.log_likelihood + row[k + 1], at, int(row[k]))
            for at, (beam, row) in enumerate(zip(self.running, candidates, strict=True))
            for k in range(0, len(row), 2)
        ]
        pairs.sort(key=lambda pair: -pair[0])
        following: list[Text] = []
        parents: list[int] = []
        for rank, (total, at, token) in enumerate(pairs[: self.width]):
            beam = _extended(self.running[at], token, total)
            if beam.writing.finish is None:
                if len(following) < self.beams:
                    following.append(beam)
                    parents.append(at)
            elif rank < self.beams:
                beam.score = self._score(beam)
                self.finished.append(beam)
        self.finished.sort(key=lambda beam: -(beam.score or 0.0))
        del self.finished[self.beams :]
        self.running = following
        if len(self.finished) == self.beams and following:
            worst = self.finished[-1].score
            if worst is not None and self._score(following[0]) <= worst:
                self.running = []
        return parents if self.running else []

    def _score(self, beam: Text) -> float:
        return beam.log_likelihood / len(beam.writing.tokens) ** self.length_penalty


def width(text: Text, decoding: Decoding) -> int:
    """Candidates of a step: as many beams would go on if every token that ends a text were among each one's best."""
    return max(2, 1 + len(text.writing.ends)) * decoding.beams


def _extended(beam: Text, token: int, total: float) -> Text:
    longer = copy.copy(beam)
    longer.writing = beam.writing.copy()
    longer.writing.extend(token)
    longer.log_likelihood = total
    return longer


def search(reader: Reader, texts: Sequence[Text], decoding: Decoding) -> list[list[Text]]:
    """The best continuations of each text, best first, `decoding.num_samples` of each."""
    searches = [_Search(text, decoding) for text in texts]
    reader.start(len(texts), max(len(text.prompt) + text.writing.limit for text in texts) - 1)
    new = [text.prompt for text in texts]
    running = searches
    most = min(max(one.width for one in searches), reader.model.config.vocab_size)
    while running:
        so_far = [beam.tokens for one in running for beam in one.running]

        def choose(logits_BV: Tensor, so_far: Sequence[Sequence[int]] = so_far) -> Tensor:
            scores = penalized(logits_BV.log_softmax(-1), so_far, decoding.repetition_penalty)
            values, tokens = scores.topk(most)
            return torch.stack([tokens.double(), values.double()], 2).flatten(1)

        found = reader.read(new, choose, (len(so_far), 2 * most))
        rows, first, new = [], 0, []
        for one in running:
            count = len(one.running)
            parents = one.step(found[first : first + count])
            rows += [first + parent for parent in parents]
            new += [beam.writing.tokens[-1:] for beam in one.running]
            first += count
        reader.keep(rows)
        running = [one for one in running if one.running]
    return [one.finished[: decoding.num_samples] for one in searches]
