"""The shape of a model. No torch here, so that `--help` and checks stay quick."""

from __future__ import annotations

from dataclasses import dataclass

from mcc.core.config import option
from mcc.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a checkpoint needs besides its tensors.

    Raises:
        UsageError: heads do not divide the hidden size, or a size is not positive.
    """

    family: str = option("gpt2", "model family: a file of mcc/models")
    num_layers: int = option(4, "number of Transformer layers")
    hidden_size: int = option(128, "width of the residual stream")
    num_attention_heads: int = option(4, "attention heads")
    ffn_hidden_size: int | None = option(None, "width of the MLP [4 x hidden size]")
    seq_length: int = option(128, "tokens per sample; the model's context length")
    vocab_size: int = option(0, "tokens in the vocabulary, without padding [the tokenizer's]")
    make_vocab_size_divisible_by: int = option(128, "pad the vocabulary to a multiple of this times TP")
    layernorm_epsilon: float = option(1e-5, "added to the variance in layer norm")
    init_std: float = option(0.02, "standard deviation of the initial weights")

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden_size", "num_attention_heads", "seq_length"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.vocab_size < 0 or self.make_vocab_size_divisible_by < 1:
            raise UsageError(
                f"vocab_size = {self.vocab_size}, make_vocab_size_divisible_by = {self.make_vocab_size_divisible_by}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise UsageError(
                f"num_attention_heads = {self.num_attention_heads} does not divide hidden_size = {self.hidden_size}",
                "every head has hidden_size / num_attention_heads channels",
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def ffn_size(self) -> int:
        """Width of the MLP's inner layer."""
        return self.ffn_hidden_size or 4 * self.hidden_size

    def require_tp(self, tp: int) -> None:
        """Refuse a tensor parallelism that would cut a head or the MLP unevenly.

        Raises:
            UsageError: `tp` does not divide the heads or the MLP's width.
        """
        if self.num_attention_heads % tp:
            raise UsageError(
                f"tp = {tp} does not divide num_attention_heads = {self.num_attention_heads}",
                "every tensor-parallel rank holds whole heads",
            )
        if self.ffn_size % tp:
            raise UsageError(f"tp = {tp} does not divide ffn_hidden_size = {self.ffn_size}")

    def padded_vocab_size(self, tp: int = 1) -> int:
        """Rows of the embedding at tensor parallelism `tp` (Megatron-LM's rule).

        >>> ModelConfig(vocab_size=50257).padded_vocab_size(1), ModelConfig(vocab_size=50257).padded_vocab_size(8)
        (50304, 51200)
        """
        multiple = self.make_vocab_size_divisible_by * tp
        return -(-self.vocab_size // multiple) * multiple
