"""A checkpoint in any format as a model ready to run on one process.

B batch   T tokens   V vocabulary
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mcc.ckpt.dtypes import cast
from mcc.ckpt.format import detect
from mcc.ckpt.source import Meta, Source
from mcc.ckpt.tokenizer_files import check_vocabulary
from mcc.core.errors import MccError
from mcc.models.base.axes import Axes
from mcc.models.base.blueprint import LANGUAGE
from mcc.models.base.bottleneck import insert, is_trained, sent_channels
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.models.base.forms import pad_rows
from mcc.models.base.transformer import Stage


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A whole model in memory.

    Args:
        config: its shape.
        model: the whole model as one stage, in eval mode; tokens[B, T] -> what its head computes.
        tokenizer_file: tokenizers' JSON, if the checkpoint keeps one.
        source_format: the name of the format that it was read from.
        meta: the rest of what the checkpoint tells: iteration, layout, ...
    """

    config: ModelConfig
    model: Stage
    tokenizer_file: Path | None
    source_format: str
    meta: Meta


def load_model(
    path: str | Path, dtype: torch.dtype = torch.float32, format: str | None = None, family: str | None = None
) -> LoadedModel:
    """The model at `path`, a checkpoint in any format, with its weights as `dtype` on the CPU.

    Raises:
        MccError: it is no checkpoint, it is damaged, or its tokenizer belongs to another model.
    """
    plugin = detect(path, format)
    source = plugin.open_as(Path(path), family)
    meta = source.meta
    check_vocabulary(meta.tokenizer, meta.config.vocab_size)
    return LoadedModel(
        config=meta.config,
        model=build_model(source, dtype),
        tokenizer_file=meta.tokenizer,
        source_format=plugin.name,
        meta=meta,
    )


def build_model(source: Source, dtype: torch.dtype = torch.float32) -> Stage:
    """The whole model of `source`, in eval mode, with the codecs that were trained with it; rows of the vocabulary's
    padding are zero."""
    config = source.meta.config
    with torch.device("meta"):  # no memory and no initialisation for what is replaced at once
        model = families.get(config.family)().build(config, Axes(), range(config.num_layers))
        insert(model, {name: sent_channels(name, shape) for name, shape in source.shapes().items() if is_trained(name)})
    model = model.to(dtype).to_empty(device="cpu").eval()
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in source.tensors():
            parameter = own.pop(name)
            rows = parameter.shape[0]  # more than the tensor's where the vocabulary is padded
            parameter.copy_(pad_rows(cast(tensor, dtype, name), rows))
    assert not own, f"the family's table lacks {sorted(own)}"
    return model.requires_grad_(False)


@torch.no_grad()
def logits(loaded: LoadedModel, tokens_BT: Tensor) -> Tensor:
    """Logits [B, T, V] of the true vocabulary for token ids [B, T]; of a head without a vocabulary what it computes.

    Raises:
        MccError: there are more tokens than the model has positions, or an id is not in the vocabulary.
    """
    config = loaded.config
    if tokens_BT.shape[1] > config.positions:
        raise MccError(
            f"{tokens_BT.shape[1]} tokens for a model of {config.positions} positions", "cut them into windows"
        )
    if tokens_BT.numel() and not 0 <= int(tokens_BT.min()) <= int(tokens_BT.max()) < config.vocab_size:
        raise MccError(f"a token id is not below the vocabulary's {config.vocab_size}", "use the model's own tokenizer")
    found = loaded.model(tokens_BT)
    out: Tensor = found[0] if isinstance(found, tuple) else found
    return out[..., : config.vocab_size] if config.head in LANGUAGE else out
