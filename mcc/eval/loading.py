"""A checkpoint of any format as a model and its tokenizer, ready to score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.eval.tokenizer import TextTokenizer, load_tokenizer
from mcc.models.base.transformer import Stage


@dataclass(frozen=True)
class Loaded:
    """A whole model in eval mode, and the tokenizer that it was trained with."""

    checkpoint: Path
    model: Stage
    tokenizer: TextTokenizer


def load(
    checkpoint: str | Path,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    reporter: Reporter = SILENT,
) -> Loaded:
    """Read `checkpoint` in float32 whatever its format.

    Args:
        checkpoint: where the model is.
        tokenizer: its file [the one beside the checkpoint].
        device: as torch names it [the GPU where there is one].
        reporter: receives progress.

    Raises:
        UsageError: there is no such device.
        MccError: the checkpoint cannot be read, it is no model of the next token, there is no tokenizer, or it does
            not fit the model.
    """
    from mcc.ckpt.load import load_model

    place = find_device(device)
    with reporter.task(f"load {checkpoint}"):
        found = load_model(Path(checkpoint))
    config = found.config
    if config.head != "lm" or not found.model.blueprint.causal:
        raise MccError(
            f"{checkpoint} is a {config.family} with the head {config.head}: it does not predict the next token",
            "give a GPT or a Llama with the head lm",
        )
    file = tokenizer or found.tokenizer_file
    if file is None:
        raise MccError(f"{checkpoint}: no tokenizer beside the checkpoint", "name its file: --tokenizer FILE")
    return Loaded(Path(checkpoint), found.model.to(place), load_tokenizer(file, found.config, reporter))


def find_device(name: str | None = None) -> torch.device:
    """The device called `name`, or the first GPU, or else the CPU.

    Raises:
        UsageError: torch knows no such device, or it is not in this machine.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch without CUDA asserts
        raise UsageError(f"no device {name!r} in this machine", "--device cpu") from None
    return device
