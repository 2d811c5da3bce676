"""Prompts that are asked for one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mcc.ckpt.source import Layout
from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.eval.generation.decoding import Decoding
from mcc.eval.generation.generate import DEFAULT_BATCH_TOKENS, Stream, complete
from mcc.eval.generation.records import Prompt
from mcc.eval.loading import Codecs, load


def interact(
    checkpoint: str | Path,
    decoding: Decoding,
    *,
    ask: Callable[[], str | None],
    stream: Stream,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    layout: Layout | None = None,
    codecs: Codecs | None = None,
    trained: bool = True,
    reporter: Reporter = SILENT,
) -> None:
    """Continue what `ask` gives until it gives None; each text comes to `stream`, then an empty line.

    A prompt that cannot be continued is warned of; an interruption ends the text that is under way, between texts it
    ends all. The other arguments are those of `generate`.

    Raises:
        MccError: the checkpoint or its tokenizer cannot be used.
    """
    loaded = load(checkpoint, tokenizer, device, reporter, layout, codecs=codecs, trained=trained)
    one = decoding.num_samples == decoding.beams == 1
    with loaded.leading():
        while (text := ask()) is not None:
            if not text.strip():
                continue
            try:
                for found in complete(loaded, [Prompt(text)], decoding, batch_tokens, stream if one else None):
                    stream("\n\n" if one else f"{text}{found.text}\n\n")
            except MccError as error:
                reporter.warn(error.what)
            except KeyboardInterrupt:  # of several ranks it ends all
                stream("\n\n")
