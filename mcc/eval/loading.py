"""A checkpoint of any format as a model and its tokenizer, ready to score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.eval.tokenizer import TextTokenizer, load_tokenizer
from mcc.models.base.transformer import Stage


@dataclass(frozen=True)
class Loaded:
    """A whole model in eval mode, and the tokenizer that it was trained with."""

    checkpoint: Path
    model: Stage
    tokenizer: TextTokenizer


def load(checkpoint: str | Path, tokenizer: str | Path | None = None, reporter: Reporter = SILENT) -> Loaded:
    """Read `checkpoint` in float32 whatever its format, with the tokenizer beside it or `tokenizer`.

    Raises:
        MccError: the checkpoint cannot be read, there is no tokenizer, or it does not fit the model.
    """
    from mcc.ckpt.load import load_model

    with reporter.task(f"load {checkpoint}"):
        found = load_model(Path(checkpoint))
    file = tokenizer or found.tokenizer_file
    if file is None:
        raise MccError(f"{checkpoint}: no tokenizer beside the checkpoint", "name its file: --tokenizer FILE")
    return Loaded(Path(checkpoint), found.model, load_tokenizer(file, found.config, reporter))
