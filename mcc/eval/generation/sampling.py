"""One token at a time for every text of a batch: the likeliest, or one that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mcc.eval.generation.decoding import Decoding, distribution, drawn, draws, penalized
from mcc.eval.generation.reader import Reader
from mcc.eval.generation.writing import Writing


@dataclass
class Text:
    """A text that is continued.

    Args:
        prompt: its tokens, at least one.
        writing: what comes after.
        place: (number of the prompt, number of the sample): what its draws are of.
        log_likelihood: of the new tokens, in nats, by the model itself: without temperature or penalty.
        score: by which a beam search chose it.
    """

    prompt: list[int]
    writing: Writing
    place: tuple[int, int] = (0, 0)
    log_likelihood: float = 0.0
    score: float | None = None

    @property
    def tokens(self) -> list[int]:
        """Prompt and continuation."""
        return self.prompt + self.writing.tokens


def sample(
    reader: Reader, texts: Sequence[Text], decoding: Decoding, stream: Callable[[str], None] | None = None
) -> None:
    """Continue all `texts` to their ends. Prompts that are equal are read once.

    Args:
        reader: of the model.
        texts: each with its own limit and stops.
        decoding: how tokens are chosen.
        stream: is told new characters as they come; for a single text.
    """
    prompts = list(dict.fromkeys(tuple(text.prompt) for text in texts))
    owners = [prompts.index(tuple(text.prompt)) for text in texts]
    reader.start(len(prompts), max(len(text.prompt) + text.writing.limit for text in texts) - 1)
    generators = [draws(decoding.seed, *text.place) for text in texts] if decoding.samples else None
    running = list(range(len(texts)))
    new: Sequence[Sequence[int]] = prompts
    after: list[int] | None = owners
    while running:

        def choose(logits_BV: Tensor, running: Sequence[int] = running, after: list[int] | None = after) -> Tensor:
            if after is not None:
                logits_BV = logits_BV[after]
            so_far = [texts[i].tokens for i in running] if decoding.repetition_penalty != 1 else []
            if generators is None:
                chosen = penalized(logits_BV, so_far, decoding.repetition_penalty).argmax(-1)
            else:
                numbers = [float(torch.rand((), generator=generators[i], dtype=torch.float64)) for i in running]
                chosen = drawn(distribution(logits_BV, so_far, decoding), numbers)
            own = logits_BV.gather(1, chosen[:, None]).squeeze(1) - logits_BV.logsumexp(-1)
            return torch.stack([chosen.double(), own.double()], 1)

        found = reader.read(new, choose, (len(running), 2))
        if after is not None:
            reader.keep(after)
        alive = []
        for row, (index, (token, own)) in enumerate(zip(running, found, strict=True)):
            text = texts[index]
            text.log_likelihood += own
            written = text.writing.extend(int(token))
            if stream is not None and written:
                stream(written)
            if text.writing.finish is None:
                alive.append(row)
        if len(alive) < len(running):
            reader.keep(alive)
        running = [running[row] for row in alive]
        new, after = [texts[i].tokens[-1:] for i in running], None
