"""What a family's Transformer is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LANGUAGE = ("lm", "pretraining")  # heads with an output layer over the vocabulary
HEADS = (*LANGUAGE, "classification", "multiple-choice", "pooler")


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """The choices in which the families differ; sizes are `ModelConfig`'s.

    Args:
        norm: layer norm (Ba et al., arXiv 1607.06450) or root-mean-square norm (arXiv 1910.07467).
        order: norms before what they feed (pre) or after the residual sum (post; arXiv 2002.04745 compares them);
            parallel: attention and MLP, each after its norm, read the same x (GPT-J, GPT-NeoX: arXiv 2204.06745).
        positions: a learned embedding, or rotary (arXiv 2104.09864).
        first_position: row of the learned embedding that is the first token's; those before it are not looked up.
        activation: of the MLP: GELU's tanh form or exact (arXiv 1606.08415), ReLU, or SwiGLU (arXiv 2002.05202).
        bias: whether the linear layers have biases.
        qkv_bias: whether the projection to queries, keys and values has one even so.
        window: whether a model may have a sliding window (arXiv 2004.05150, section 3.1).
        causal: whether a token sees only itself and those before it.
        token_types: whether segments are embedded.
        heads: what the last stage can compute.
    """

    norm: Literal["layer", "rms"] = "layer"
    order: Literal["pre", "post", "parallel"] = "pre"
    positions: Literal["learned", "rotary"] = "learned"
    first_position: int = 0
    activation: Literal["gelu-tanh", "gelu", "relu", "swiglu"] = "gelu-tanh"
    bias: bool = True
    qkv_bias: bool = False
    window: bool = False
    causal: bool = True
    token_types: bool = False
    heads: tuple[str, ...] = ("lm",)
