"""The shape of a model. No torch here, so that `--help` and checks stay quick."""

from __future__ import annotations

from dataclasses import dataclass

from mcc.core.config import option
from mcc.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a checkpoint needs besides its tensors. Megatron-LM's names where it has them.

    Raises:
        UsageError: sizes do not divide one another, or a value is out of its range.
    """

    family: str = option("gpt2", "model family: a file of mcc/models")
    num_layers: int = option(4, "number of Transformer layers")
    hidden_size: int = option(128, "width of the residual stream")
    num_attention_heads: int = option(4, "attention heads")
    num_query_groups: int | None = option(None, "key/value heads, each shared by a group of heads [one a head]")
    kv_channels: int | None = option(None, "channels of an attention head [hidden size / heads]")
    ffn_hidden_size: int | None = option(None, "width of the MLP [4 x hidden size]")
    seq_length: int = option(128, "tokens per sample")
    max_position_embeddings: int | None = option(None, "the model's context length [--seq-length]")
    num_tokentypes: int = option(2, "segments that BERT tells apart")
    vocab_size: int = option(0, "tokens in the vocabulary, without padding [the tokenizer's]")
    make_vocab_size_divisible_by: int = option(128, "pad the vocabulary to a multiple of this times TP")
    untie_embeddings_and_output_weights: bool = option(False, "give the output layer weights of its own")
    head: str = option("lm", "what the last stage computes: lm, pretraining, classification, multiple-choice or pooler")
    num_labels: int = option(2, "classes of the classification head")
    layernorm_epsilon: float = option(1e-5, "added to the variance in a norm")
    rotary_base: float = option(10000.0, "base of the rotary positions' wavelengths")
    rotary_percent: float = option(1.0, "share of a head's channels, the first ones, that rotary positions turn")
    rope_scaling_factor: float = option(1.0, "Llama 3's stretching of the long wavelengths; 1: none")
    rope_low_freq_factor: float = option(1.0, "positions before the stretch / this: longer wavelengths are stretched")
    rope_high_freq_factor: float = option(4.0, "positions before the stretch / this: shorter wavelengths stay")
    rope_original_positions: int = option(8192, "context length before the stretch")
    sliding_window: int | None = option(None, "tokens that a token sees at most, itself among them [all before it]")
    hidden_dropout: float = option(0.0, "dropout after the embedding, the attention and the MLP")
    attention_dropout: float = option(0.0, "dropout of attention weights")
    init_std: float = option(0.02, "standard deviation of the initial weights")

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", self.family.replace("_", "-"))
        object.__setattr__(self, "head", self.head.replace("_", "-"))
        for name in ("num_layers", "hidden_size", "num_attention_heads", "seq_length", "num_tokentypes", "num_labels"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 1")
        for name in ("num_query_groups", "kv_channels", "ffn_hidden_size", "max_position_embeddings", "sliding_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} = {value} must be at least 1")
        if self.vocab_size < 0 or self.make_vocab_size_divisible_by < 1:
            raise UsageError(
                f"vocab_size = {self.vocab_size}, make_vocab_size_divisible_by = {self.make_vocab_size_divisible_by}"
            )
        if self.kv_channels is None and self.hidden_size % self.num_attention_heads:
            raise UsageError(
                f"num_attention_heads = {self.num_attention_heads} does not divide hidden_size = {self.hidden_size}",
                "every head has hidden_size / num_attention_heads channels",
            )
        if self.num_attention_heads % self.query_groups:
            raise UsageError(
                f"num_query_groups = {self.query_groups} does not divide "
                f"num_attention_heads = {self.num_attention_heads}",
                "every key/value head serves the same number of heads",
            )
        if self.seq_length > self.positions:
            raise UsageError(f"seq_length = {self.seq_length} is more than the {self.positions} positions of the model")
        if not 0 < self.rotary_percent <= 1:
            raise UsageError(f"rotary_percent = {self.rotary_percent} is no share above 0")
        for name in ("hidden_dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} is no probability below 1")

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that rotary positions turn."""
        return int(self.head_dim * self.rotary_percent)

    @property
    def query_groups(self) -> int:
        """Key/value heads."""
        return self.num_query_groups or self.num_attention_heads

    @property
    def ffn_size(self) -> int:
        """Width of the MLP's inner layer."""
        return self.ffn_hidden_size or 4 * self.hidden_size

    @property
    def positions(self) -> int:
        """Positions that a learned embedding has."""
        return self.max_position_embeddings or self.seq_length

    @property
    def context(self) -> int:
        """Tokens that a model here takes at a time: all positions, or a sliding window of them."""
        return min(self.positions, self.sliding_window or self.positions)

    def require_tp(self, tp: int) -> None:
        """Refuse a tensor parallelism that would cut a head, a key/value head or the MLP unevenly.

        Raises:
            UsageError: `tp` does not divide the heads, the key/value heads or the MLP's width.
        """
        heads, groups = self.num_attention_heads, self.query_groups
        fits = ", ".join(str(n) for n in range(1, groups + 1) if not heads % n and not groups % n)
        hint = f"every tensor-parallel rank holds whole heads: tp can be {fits}"
        if heads % tp:
            shared = f", nor num_query_groups = {groups}" if groups != heads and groups % tp else ""
            raise UsageError(f"tp = {tp} does not divide num_attention_heads = {heads}{shared}", hint)
        if groups % tp:
            raise UsageError(
                f"tp = {tp} divides num_attention_heads = {heads} but not num_query_groups = {groups}", hint
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
