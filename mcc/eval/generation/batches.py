"""Batches of texts to continue, on one rank or on all that hold parts of the model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mcc.eval.generation import beam
from mcc.eval.generation.decoding import Decoding
from mcc.eval.generation.reader import Reader
from mcc.eval.generation.sampling import Text, sample
from mcc.eval.generation.writing import Finish, Writing
from mcc.eval.place import Place
from mcc.eval.tokenizer import TextTokenizer
from mcc.models.base.transformer import Stage

COMMAND = "generate"


@dataclass(frozen=True)
class Job:
    """A text to continue.

    Args:
        prompt: its tokens, at least one.
        limit: most new tokens.
        stops: the continuation ends before any of these.
        ends: tokens that end it.
        place: (number of the prompt, number of the sample): what its draws are of.
        joined: whether the continuation's text follows the prompt's, or stands alone.
    """

    prompt: list[int]
    limit: int
    stops: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    place: tuple[int, int] = (0, 0)
    joined: bool = True

    @property
    def length(self) -> int:
        """Most tokens that there will be."""
        return len(self.prompt) + self.limit

    def begin(self, tokenizer: TextTokenizer) -> Text:
        """The text before its first new token."""
        context = self.prompt if self.joined else []
        return Text(self.prompt, Writing(tokenizer, context, self.limit, self.stops, self.ends), self.place)


@dataclass(frozen=True)
class Batch:
    """Jobs that go together."""

    jobs: list[Job]
    decoding: Decoding


@dataclass(frozen=True)
class Ended:
    """A continuation; see `mcc.eval.generation.records.Completion`."""

    tokens: list[int]
    text: str
    finish: Finish
    log_likelihood: float
    score: float | None = None


@dataclass
class Batches:
    """Continues batches with a model in memory, or this rank's part of it.

    Args:
        model, tokenizer, place: as `mcc.eval.loading.Loaded` has them.
        stream: is told new characters as they come; on the leader alone.
        alike: batch only prompts of one length, without padding: for codecs, which see it.
    """

    model: Stage
    tokenizer: TextTokenizer
    place: Place = field(default_factory=Place)
    stream: Callable[[str], None] | None = None
    alike: bool = False

    def __post_init__(self) -> None:
        self._reader = Reader(self.model, self.place)

    def run(self, jobs: Sequence[Job], decoding: Decoding, batch_tokens: int) -> Iterator[tuple[int, list[Ended]]]:
        """(index into `jobs`, its continuations: one, or of a beam search the best), the longest jobs first. On the
        leader.

        Args:
            jobs: in any order.
            decoding: how tokens are chosen.
            batch_tokens: most tokens that are kept at a time, prompts and continuations; one job always fits.
        """
        batches = list(_arranged(jobs, decoding.beams, batch_tokens, self.alike))
        replicas = self.place.layout.dp
        for first in range(0, len(batches), replicas):
            part = batches[first : first + replicas]
            found = self.place.share(COMMAND, [Batch([jobs[i] for i in one], decoding) for one in part], self.work)
            for indices, results in zip(part, found, strict=True):
                yield from zip(indices, results, strict=True)

    def work(self, command: str, batches: Sequence[Batch]) -> list[list[list[Ended]]]:
        """Every batch's continuations, a list for each job."""
        return [self._continued(batch) for batch in batches]

    def _continued(self, batch: Batch) -> list[list[Ended]]:
        texts = [job.begin(self.tokenizer) for job in batch.jobs]
        if batch.decoding.beams > 1:
            best = beam.search(self._reader, texts, batch.decoding)
        else:
            sample(self._reader, texts, batch.decoding, self.stream)
            best = [[text] for text in texts]
        self._reader.start(0, 0)  # keys and values are let go
        return [[_ended(text) for text in one] for one in best]


def _arranged(jobs: Sequence[Job], rows: int, batch_tokens: int, alike: bool) -> Iterator[list[int]]:
    """Indices of jobs of like length, the longest first: what does not fit the memory says so at once."""
    order = sorted(range(len(jobs)), key=lambda i: (-jobs[i].length, -len(jobs[i].prompt)))
    at = 0
    while at < len(order):
        count = max(1, batch_tokens // (jobs[order[at]].length * rows))
        batch = order[at : at + count]
        if alike:
            batch = list(next(itertools.groupby(batch, lambda i: len(jobs[i].prompt)))[1])
        yield batch
        at += len(batch)


def _ended(text: Text) -> Ended:
    writing = text.writing
    assert writing.finish is not None
    return Ended(writing.tokens, writing.text, writing.finish, text.log_likelihood, text.score)
