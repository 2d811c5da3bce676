"""Continuations of prompts by a checkpoint of any format.

As `transformers.generate` on the converted model: greedy and beam search give its tokens, sampling draws from its
distribution. A batch changes no text but by the rounding of its sums.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcc.ckpt.source import Layout
from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.eval.generation.batches import Batches, Job
from mcc.eval.generation.decoding import DEFAULT_NEW_TOKENS, Decoding
from mcc.eval.generation.records import Completion, Prompt, write_completions
from mcc.eval.loading import Codecs, Loaded, load

DEFAULT_BATCH_TOKENS = 4096
# Receives a continuation's characters as they come: whole ones, and none that a stop string may still swallow.
Stream = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class GenerationReport:
    """Continuations in the order of their prompts; `seconds` is the time that generating them took."""

    checkpoint: str
    completions: list[Completion]
    seconds: float

    @property
    def new_tokens(self) -> int:
        """Of all continuations."""
        return sum(len(completion.tokens) for completion in self.completions)


def generate(
    checkpoint: str | Path,
    prompts: Sequence[Prompt],
    decoding: Decoding | None = None,
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    stream: Stream | None = None,
    layout: Layout | None = None,
    codecs: Codecs | None = None,
    trained: bool = True,
    reporter: Reporter = SILENT,
) -> GenerationReport:
    """Continue `prompts` with the model of `checkpoint`. Among several ranks only the first returns.

    Args:
        checkpoint: where the model is, in any format.
        prompts: texts.
        decoding: how they are continued [greedily].
        batch_tokens: most tokens that are kept at a time, prompts and continuations; changes speed and memory alone.
        tokenizer: its file [the one beside the checkpoint].
        device: as torch names it [the GPU where there is one].
        out: JSONL file for the continuations.
        stream: of one prompt and one sample, receives prompt and continuation as they come.
        layout: tensor- and pipeline-parallel sizes, where a launcher started several ranks.
        codecs, trained: as `mcc.eval.loading.load` takes them.
        reporter: receives progress.

    Raises:
        UsageError: the layout fits neither model nor ranks.
        MccError: the checkpoint or its tokenizer cannot be used, or a prompt leaves no room in the model's context.
    """
    loaded = load(checkpoint, tokenizer, device, reporter, layout, codecs=codecs, trained=trained)
    with loaded.leading():
        start = time.perf_counter()
        completions = complete(loaded, prompts, decoding or Decoding(), batch_tokens, stream, reporter)
        seconds = time.perf_counter() - start
    if out is not None:
        write_completions(out, completions)
    return GenerationReport(checkpoint=str(checkpoint), completions=completions, seconds=seconds)


def complete(
    loaded: Loaded,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    stream: Stream | None = None,
    reporter: Reporter = SILENT,
) -> list[Completion]:
    """`decoding.num_samples` continuations of each prompt, in order, by a model in memory. On the leading rank.

    Arguments are those of `generate`.

    Raises:
        MccError: a prompt leaves no room for its continuation, or has no token to begin with.
    """
    ends = frozenset() if decoding.ignore_eos else end_tokens(loaded)
    copies = 1 if decoding.beams > 1 else decoding.num_samples
    jobs = []
    for number, prompt in enumerate(prompts):
        tokens, limit = _fitted(loaded, prompt, number, decoding)
        jobs += [Job(tokens, limit, decoding.stop, ends, (number, sample)) for sample in range(copies)]
    found: dict[tuple[int, int], Completion] = {}
    batches = Batches(loaded.model, loaded.tokenizer, loaded.place, stream, alike=bool(loaded.coding))
    if stream is not None:
        stream(prompts[0].text)
    with reporter.task("generate", total=len(jobs), unit="texts") as task:
        for index, results in batches.run(jobs, decoding, batch_tokens):
            number, first = jobs[index].place
            for sample, ended in enumerate(results, first):
                found[number, sample] = Completion(
                    prompt=prompts[number], number=number, sample=sample, text=ended.text, tokens=ended.tokens,
                    finish=ended.finish, log_likelihood=ended.log_likelihood, score=ended.score,
                )  # fmt: skip
            task.advance()
    return [found[place] for place in sorted(found)]


def _fitted(loaded: Loaded, prompt: Prompt, number: int, decoding: Decoding) -> tuple[list[int], int]:
    """A prompt's tokens, and the most that may follow."""
    tokenizer, most = loaded.tokenizer, loaded.model.config.context
    tokens = tokenizer.encode(prompt.text) if prompt.text else []
    if not tokens:
        if tokenizer.prefix_id is None:
            raise MccError(
                f"{tokenizer.file}: no token begins or ends a text, so that nothing stands before a first word",
                "give a prompt: --prompt TEXT",
            )
        tokens = [tokenizer.prefix_id]
    room = most - len(tokens)
    limit = decoding.max_new_tokens or min(DEFAULT_NEW_TOKENS, room)
    if limit > room or limit < 1:
        new = f"{decoding.max_new_tokens} new ones" if decoding.max_new_tokens else "a new one"
        raise MccError(
            f"prompt {number + 1}: {len(tokens)} tokens and {new} are more than the model's context of {most}",
            f"--max-new-tokens {room}" if room > 0 else "shorten the prompt",
        )
    return tokens, limit


def end_tokens(loaded: Loaded) -> frozenset[int]:
    """The tokens that end a text: the tokenizer's, and those of transformers' generation_config.json beside it."""
    file = loaded.tokenizer.file
    beside = file if file.is_dir() else file.parent
    try:
        values = json.loads((beside / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        values = None
    more = values if isinstance(values, list) else [values]
    return frozenset(token for token in (loaded.tokenizer.eos_id, *more) if isinstance(token, int))
