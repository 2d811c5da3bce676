"""Are a checkpoint's files as they were written, and do two checkpoints compute the same?

Both models run on fixed tokens; Hugging Face folders run in transformers.

B batch   T tokens   V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mcc.ckpt.checksums import CHECKSUMS, check
from mcc.ckpt.convert import DETECTED, Reading
from mcc.ckpt.format import detect
from mcc.ckpt.formats.mcc import newest
from mcc.ckpt.load import load_model, logits
from mcc.core.errors import MccError, UsageError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families

BATCH, TOKENS = 2, 128
_SEED = 1234


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The comparison of two models in float32.

    Args:
        path, against: the checkpoints.
        runs: which implementation ran each: `mcc` or `transformers`.
        tokens: token ids compared.
        max_abs_diff: the largest difference between logits.
        losses: mean cross-entropy of each on these tokens, nats; None where there are no logits of tokens.
        passed: whether `max_abs_diff` is within `tolerance`.
    """

    path: Path
    against: Path
    runs: tuple[str, str]
    tokens: int
    max_abs_diff: float
    losses: tuple[float, float] | None
    tolerance: float
    passed: bool


@dataclass(frozen=True, kw_only=True)
class FilesReport:
    """A checkpoint whose files are all as they were written.

    Args:
        path: the checkpoint's folder.
        files: how many were compared with their checksums.
        size_bytes: of all of them.
    """

    path: Path
    files: int
    size_bytes: int


def verify_files(path: str | Path, reading: Reading = DETECTED, required: bool = False) -> FilesReport | None:
    """Compare a checkpoint's files with the checksums beside them; None where there are none.

    Args:
        path: a checkpoint in any format, or a training run, whose latest checkpoint is taken.
        reading: what `path` is.
        required: refuse a checkpoint without checksums.

    Raises:
        MccError: a file is missing or not as it was written; the message names it.
    """
    folder = newest(Path(path)) if detect(path, reading.format).name == "mcc" else Path(path)
    found = check(folder)
    if found is None and required:
        raise MccError(f"{folder} has no {CHECKSUMS}", "what other programs write has none: verify --against")
    return None if found is None else FilesReport(path=folder, files=found[0], size_bytes=found[1])


def verify(
    path: str | Path,
    against: str | Path | None = None,
    tolerance: float = 1e-4,
    reading: Reading = DETECTED,
) -> VerifyReport:
    """Compare the logits of the model at `path` with those of the model at `against`.

    Args:
        path: a checkpoint in any format.
        against: another; None when `path` is a Hugging Face folder: then mcc's model is compared with transformers'.
        tolerance: largest difference that passes.
        reading: what `path` is.

    Raises:
        UsageError: `against` is missing.
        MccError: a checkpoint cannot be read, a file of it is not as it was written, or the two have different
            vocabularies.
    """
    first, other = Path(path), Path(path if against is None else against)
    other_reading = reading if against is None else DETECTED
    foreign = detect(first, reading.format).name == "hf"
    if against is None and not foreign:
        raise UsageError(f"nothing to compare {first} with", "give --against PATH")
    sides = ((first, reading), (other, other_reading))
    for checkpoint, how in dict(sides).items():
        verify_files(checkpoint, how)
    # Alone, a Hugging Face folder is read by both implementations.
    runs = (
        "transformers" if foreign and against is not None else "mcc",
        "transformers" if detect(other, other_reading.format).name == "hf" else "mcc",
    )
    config_a, config_b = (how.open(checkpoint).meta.config for checkpoint, how in sides)
    if config_a.vocab_size != config_b.vocab_size:
        sizes = f"{first} has a vocabulary of {config_a.vocab_size} tokens, {other} of {config_b.vocab_size}"
        raise MccError(f"different models: {sizes}")
    if config_a.head != config_b.head:
        raise MccError(f"different models: {first} has the head {config_a.head}, {other} has {config_b.head}")
    tokens = fixed_tokens(config_a, config_b)
    a, b = (_RUN[run](*side, tokens) for run, side in zip(runs, sides, strict=True))
    gap = float((a - b).abs().nan_to_num(nan=float("inf")).max())
    return VerifyReport(
        path=first,
        against=other,
        runs=runs,
        tokens=tokens.numel(),
        max_abs_diff=gap,
        losses=(_loss(a, tokens), _loss(b, tokens)) if a.dim() == 3 else None,
        tolerance=tolerance,
        passed=gap <= tolerance,
    )


def fixed_tokens(*configs: ModelConfig) -> Tensor:
    """Token ids [B, T] that are the same on every machine, and that each of the models has room for."""
    generator = torch.Generator().manual_seed(_SEED)
    length = min(TOKENS, *(config.context for config in configs))
    tokens = torch.randint(0, min(config.vocab_size for config in configs), (BATCH, length), generator=generator)
    for config in configs:
        # transformers' RoBERTa gives the token whose id is this row's no position of its own: it is the padding's.
        tokens[tokens == families.get(config.family).blueprint.first_position - 1] = 0
    return tokens


def _ours(path: Path, reading: Reading, tokens_BT: Tensor) -> Tensor:
    return logits(load_model(path, format=reading.format, family=reading.family), tokens_BT)


@torch.no_grad()
def _transformers(path: Path, reading: Reading, tokens_BT: Tensor) -> Tensor:
    import transformers

    config = reading.open(path).meta.config
    model_class = getattr(transformers, families.get(config.family).hf_classes[config.head])
    with _no_bars():
        model = model_class.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()
    choices = config.head == "multiple-choice"
    found = model(tokens_BT.unsqueeze(1) if choices else tokens_BT)
    for name in ("logits", "prediction_logits", "pooler_output"):
        if name in found:
            out: Tensor = found[name]
            return out
    raise MccError(f"{path}: transformers' {model_class.__name__} gives no logits")


_RUN = {"mcc": _ours, "transformers": _transformers}


@contextmanager
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _loss(logits_BTV: Tensor, tokens_BT: Tensor) -> float:
    return float(F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten()))
