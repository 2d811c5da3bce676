"""Our model and transformers' with the same random weights, and the comparison of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.config import ModelConfig
from mcc.models.base.extras import Extras
from mcc.models.base.family import families
from mcc.models.base.forms import FORMS, join
from mcc.models.base.transformer import Stage


def pair(config: ModelConfig, axes: Axes | None = None) -> tuple[Stage, Any]:
    """(our model, transformers' model), in eval mode."""
    import transformers

    family = families.get(config.family)()
    torch.manual_seed(0)
    values = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None, **family.to_hf_config(config)}
    theirs_config = transformers.AutoConfig.for_model(**values)
    theirs = getattr(transformers, family.hf_classes[config.head])(theirs_config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = family.build(config, axes or Axes(), range(config.num_layers)).eval()
    state, own = theirs.state_dict(), dict(ours.named_parameters())
    with torch.no_grad():
        for name, tensor in as_ours(config, state).items():
            own[name].zero_()
            own[name][: tensor.shape[0]].copy_(tensor)
    return ours, theirs


def as_ours(config: ModelConfig, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by our names, out of tensors by transformers'."""
    found = {}
    for name, row, layer in families.get(config.family)().table(config):
        # A body alone (BertModel) has no prefix; GPT-NeoX's files have another name than its model since version 5.
        keys = [key.replace("embed_out", "lm_head") for key in row.hf_names(layer)]
        keys = [key if key in theirs else key.partition(".")[2] for key in keys]
        found[name] = join([theirs[key] for key in keys], FORMS[row.hf_form], config)
    return found


def inputs(config: ModelConfig) -> tuple[Tensor, Extras]:
    """Token ids [3, T] and what goes with them: BERT's segments and padding."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, config.vocab_size, (3, config.seq_length), generator=generator)
    if families.get(config.family).blueprint.causal:
        return tokens, Extras()
    tokens[tokens == 1] = 2  # RoBERTa counts positions over tokens that are not its padding
    types = (torch.arange(config.seq_length) >= config.seq_length // 2).long().expand_as(tokens) % config.num_tokentypes
    lengths = torch.tensor([config.seq_length, config.seq_length - 3, config.seq_length // 2])
    return tokens, Extras(padding=torch.arange(config.seq_length) < lengths[:, None], token_types=types)


def outputs(config: ModelConfig, ours: Stage, theirs: Any) -> list[tuple[Tensor, Tensor]]:
    """(ours, transformers') of each output, the vocabulary without padding, padded tokens without value."""
    tokens, extras = inputs(config)
    more: dict[str, Any] = {}
    if extras.padding is not None:
        more = {"attention_mask": extras.padding.long(), "token_type_ids": extras.token_types}
    if config.head == "multiple-choice":
        expected = theirs(tokens[:, None], **{key: value[:, None] for key, value in more.items()})
    else:
        expected = theirs(tokens, **more)
    found = ours(tokens, extras)
    found = found if isinstance(found, tuple) else (found,)
    names = {"pretraining": ("prediction_logits", "seq_relationship_logits"), "pooler": ("pooler_output",)}
    pairs = []
    for mine, name in zip(found, names.get(config.head, ("logits",)), strict=True):
        there = expected[name]
        if there.dim() == 3:
            mine = mine[..., : config.vocab_size]
            if extras.padding is not None:
                mine, there = mine[extras.padding], there[extras.padding]
        pairs.append((mine, there))
    return pairs


def assert_same_outputs_and_gradients(config: ModelConfig, ours: Stage, theirs: Any) -> None:
    """Outputs, and the gradients of a weighted sum of them, agree to the rounding of float32."""
    pairs = outputs(config, ours, theirs)
    losses = [torch.zeros(()), torch.zeros(())]
    for mine, there in pairs:
        torch.testing.assert_close(mine, there, atol=1e-4, rtol=1e-5)
        weights = torch.randn(there.shape, generator=torch.Generator().manual_seed(3)) / there.numel()
        losses = [losses[0] + (mine * weights).sum(), losses[1] + (there * weights).sum()]
    for loss in losses:
        loss.backward()
    named = theirs.named_parameters(remove_duplicate=False)
    gradients = as_ours(config, {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named})
    checked = dict(ours.named_parameters())
    assert checked.keys() == gradients.keys()
    for name, parameter in checked.items():
        expected, found = gradients[name], parameter.grad
        assert found is not None, name
        scale = float(expected.abs().max())
        assert not found[expected.shape[0] :].any(), name
        error = float((found[: expected.shape[0]] - expected).abs().max())
        assert error <= 1e-3 * scale + 1e-6, f"{name}: {error} of {scale}"
