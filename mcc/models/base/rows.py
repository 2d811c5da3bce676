"""Rows of the families' tables that come in pairs: a weight and its bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcc.models.base.family import Init, Param

_HEADED = ("pretraining", "classification", "multiple-choice", "pooler")


def norm(name: str, hf: str, megatron: str = "", *, bias: bool = True, **more: Any) -> tuple[Param, ...]:
    """A norm over D. `hf` and `megatron` are the foreign modules' names; `more` goes to `Param`."""
    weight = Param(
        name=f"{name}.weight", shape=("D",), init="ones", hf=f"{hf}.weight", megatron=_leaf(megatron, "weight"), **more
    )
    if not bias:
        return (weight,)
    return weight, Param(name=f"{name}.bias", shape=("D",), hf=f"{hf}.bias", megatron=_leaf(megatron, "bias"), **more)


def linear(
    name: str,
    shape: tuple[str, str],
    hf: str | tuple[str, ...],
    megatron: str = "",
    *,
    tp_dim: int | None = None,
    init: Init = "normal",
    forms: tuple[str, str] = ("same", "same"),
    bias: bool = True,
    **more: Any,
) -> tuple[Param, ...]:
    """A linear layer of shape (outputs, inputs). `forms` are those of the weight and of the bias in transformers."""
    weight = Param(
        name=f"{name}.weight", shape=shape, tp_dim=tp_dim, init=init, hf=_each(hf, "weight"),
        hf_form=forms[0], megatron=_leaf(megatron, "weight"), **more,
    )  # fmt: skip
    if not bias:
        return (weight,)
    return weight, Param(
        name=f"{name}.bias", shape=shape[:1], tp_dim=0 if tp_dim == 0 else None, hf=_each(hf, "bias"),
        hf_form=forms[1], megatron=_leaf(megatron, "bias"), **more,
    )  # fmt: skip


def embedding(name: str, symbol: str, hf: str, megatron: str = "") -> Param:
    """A table of `symbol` rows that the first stage looks up; the tokens' is sharded over the vocabulary."""
    return Param(
        name=f"embedding.{name}.weight", shape=(symbol, "D"), where="first", tp_dim=0 if symbol == "V" else None,
        init="normal", tokens="all", hf=f"{hf}.weight", megatron=_leaf(megatron, "weight"),
    )  # fmt: skip


def output(hf: str, megatron: str = "") -> Param:
    """The output layer, where it is not the token embedding."""
    return Param(
        name="output.weight", shape=("V", "D"), where="last", tp_dim=0, init="normal", untied=True, hf=f"{hf}.weight",
        megatron=_leaf(megatron, "weight"),
    )  # fmt: skip


def bert_heads(megatron: Callable[[str], str]) -> tuple[Param, ...]:
    """BERT's heads, which transformers names alike in all its BERTs; `megatron` gives their names in Megatron-LM."""
    masked: dict[str, Any] = {"where": "last", "heads": ("lm", "pretraining")}
    pooled: dict[str, Any] = {"where": "last", "tokens": "all"}
    return (
        *linear(
            "top.transform.dense", ("D", "D"), "cls.predictions.transform.dense", megatron("lm_head.dense"), **masked
        ),
        *norm("top.transform.norm", "cls.predictions.transform.LayerNorm", megatron("lm_head.layernorm"), **masked),
        Param(
            name="top.bias", shape=("V",), tp_dim=0, hf="cls.predictions.bias", megatron=megatron("lm_head.bias"),
            **masked,
        ),
        *linear(
            "top.pooler", ("D", "D"), "bert.pooler.dense", megatron("language_model.pooler.dense"), heads=_HEADED,
            **pooled,
        ),
        *linear(
            "top.order", ("2", "D"), "cls.seq_relationship", megatron("binary_head"), heads=("pretraining",), **pooled
        ),
        *linear(
            "top.classifier", ("C", "D"), "classifier", megatron("classification_head"), heads=("classification",),
            **pooled,
        ),
        *linear(
            "top.classifier", ("C", "D"), "classifier", megatron("multichoice_head"), heads=("multiple-choice",),
            **pooled,
        ),
    )  # fmt: skip


def _each(modules: str | tuple[str, ...], leaf: str) -> str | tuple[str, ...]:
    return f"{modules}.{leaf}" if isinstance(modules, str) else tuple(f"{module}.{leaf}" for module in modules)


def _leaf(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else ""
