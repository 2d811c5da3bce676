"""What ring attention's ranks send each other of keys and values, and how a codec makes it smaller.

    B batch   ng key/value heads   T tokens of each rank   hd channels of a head

A block is encoded once, where it is from; its payload goes round the ring unchanged, and backward the same payload goes
round again. Every rank computes with what it decodes to, the owner of the block too: all see the same keys and values,
the backward pass those of the forward pass, and what is kept in between is the payload. Gradients pass the codec as if
it were not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mcc.train.compress.codec import Codec, Context, TensorSpec, pack, unpack
from mcc.train.compress.spec import CodecSpec


class Coders:
    """The codecs of `cp.kv`, without state: one for keys and one for values of every place and shape.

    Args:
        spec: the site's codec.
    """

    def __init__(self, spec: CodecSpec) -> None:
        self.spec = spec
        self._made: dict[tuple[str, TensorSpec], Codec] = {}

    def at(self, spec: TensorSpec, key: str) -> Codec:
        """The codec of tensors of `spec` at the place `key`."""
        if (key, spec) not in self._made:
            self._made[key, spec] = self.spec.make(spec, key)
        return self._made[key, spec]


@dataclass(frozen=True)
class Coding:
    """How one attention codes its blocks, forward and backward: where it is in the model, and when."""

    coders: Coders
    key: str
    context: Context

    def pair(self, spec: TensorSpec, part: int) -> tuple[Codec, Codec]:
        """The codecs of keys and of values of some of the heads."""
        keys, values = (self.coders.at(spec, f"{self.key}/{what}{part}") for what in ("k", "v"))
        return keys, values


@dataclass(frozen=True)
class Form:
    """How keys, values and padding stand in a message.

    Attributes:
        heads: shape and dtype of keys and of values: [B, ng, T, hd].
        padding: of the mask, or None where there is none.
        coding: or None where they stand as they are.
        part: which of the attention's messages this is.
    """

    heads: TensorSpec
    padding: TensorSpec | None
    coding: Coding | None = None
    part: int = 0

    @staticmethod
    def of(k: Tensor, padding: Tensor | None, coding: Coding | None = None, part: int = 0) -> Form:
        """The form of messages with keys and values like k."""
        mask = None if padding is None else TensorSpec(tuple(padding.shape), padding.dtype)
        return Form(TensorSpec(tuple(k.shape), k.dtype), mask, coding, part)

    @torch.no_grad()
    def write(self, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
        """A message: uint8, flat."""
        parts: tuple[Tensor, ...] = (k, v)
        if self.coding is not None:
            pairs = zip(self._codecs(), (k, v), strict=True)
            parts = tuple(part for codec, x in pairs for part in codec.encode(x, self.coding.context))
        return pack(parts if padding is None else (*parts, padding))

    @torch.no_grad()
    def read(self, message: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and padding of a message."""
        payloads = list(self._payloads())
        specs = [spec for payload in payloads for spec in payload]
        parts = unpack(message, specs if self.padding is None else [*specs, self.padding])
        padding = parts[len(specs)] if self.padding is not None else None
        if self.coding is None:
            return parts[0], parts[1], padding
        middle = len(payloads[0])
        context, (keys, values) = self.coding.context, self._codecs()
        k, v = keys.decode(parts[:middle], context), values.decode(parts[middle : len(specs)], context)
        return k, v, padding

    def _codecs(self) -> tuple[Codec, Codec]:
        assert self.coding is not None
        return self.coding.pair(self.heads, self.part)

    def _payloads(self) -> Iterator[tuple[TensorSpec, ...]]:
        if self.coding is None:
            yield from ((self.heads,), (self.heads,))
        else:
            yield from (codec.payload(self.coding.context) for codec in self._codecs())


class Block:
    """A rank's keys and values of some heads as they travel, read when they are needed.

    Args:
        message: of `form`.
        source: the rank that they are from.
    """

    def __init__(self, message: Tensor, form: Form, source: int) -> None:
        self.message, self.form, self.source = message, form, source

    @cached_property
    def contents(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and padding."""
        return self.form.read(self.message)
