"""The codec contract: a tensor becomes a payload of tensors whose exact size both ends know beforehand.

A codec object is one end of one *stream*: the activations that cross one pipeline boundary, the partial sums of one
layer, the gradient of one parameter. What it remembers (low-rank factors, caches) belongs to that stream.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mcc.core.plugins import Kind

if TYPE_CHECKING:
    from mcc.train.compress.collective import Collective


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor that is not there yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's elements."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Context:
    """When a tensor is coded: the same values at both ends.

    Args:
        step: optimizer steps taken before this one.
        microbatch: index of the micro-batch within the step.
        epoch: passes over the data that were completed before this step.
        samples: ids of the micro-batch's samples, the same whenever a sample comes again; None where they have none.
        training: False in evaluation, when no codec may change its state and none may rely on what it remembers of
            the tensor before.
    """

    step: int = 0
    microbatch: int = 0
    epoch: int = 0
    samples: tuple[int, ...] | None = None
    training: bool = True


STEADY = Context()  # for sizes that do not depend on when


Payload = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """For a codec without options."""


class Codec(ABC):
    """One end of one stream of tensors of one shape.

    Attributes:
        Options: frozen dataclass of the codec's options; its field names are the grammar's keys.
        source: one line: paper and section.
        matrixwise: at `dp.grad`, code each parameter as the matrix it is (True) or all of them as one flat bucket.
        exact: what is decoded is what was encoded. More than two ranks then add it up as without a codec: sums in
            another order would be other bits.
        additive: payloads of one context can be added element by element, and what the sum decodes to is the sum of
            what they decode to. Sums over ranks are then sums of payloads.
        by_sample: remembers samples, so it is for data whose samples come again.
        trainable: its weights are the model's (options have `dim`, the channels that are sent): the engine puts
            `mcc.models.base.bottleneck`s into the model instead of asking for codecs.

    Args:
        options: checked options.
        spec: shape and dtype of every tensor of the stream.
        key: the stream's name, the same at both ends; seeds whatever is random.

    Attributes:
        folder: where it may keep files while the run goes on; None: among the system's temporary files.
        rank: of this end, among those whose tensors are summed.
    """

    Options: ClassVar[type[Any]] = NoOptions
    source: ClassVar[str]
    matrixwise: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    additive: ClassVar[bool] = False
    by_sample: ClassVar[bool] = False
    trainable: ClassVar[bool] = False

    def __init__(self, options: Any, spec: TensorSpec, key: str) -> None:
        self.options = options
        self.spec = spec
        self.key = key
        self.folder: Path | None = None
        self.rank = 0

    @classmethod
    def refusal(cls, site: str, options: Any) -> str | None:
        """Why this codec makes no sense at `site`, or None when it does."""
        return None

    @classmethod
    def kept_bytes(cls, options: Any, sample: tuple[int, ...]) -> int:
        """Bytes that one end keeps of a sample of this shape."""
        return 0

    @classmethod
    def feedback_refusal(cls, options: Any) -> str | None:
        """Why error feedback makes no sense around this codec, or None when it does.

        It needs a codec that loses less than there is, |x - D(E(x))| < |x| at least in the mean: else the error grows.
        """
        return None

    @classmethod
    def remembers(cls, options: Any) -> bool:
        """Whether what is sent of one tensor depends on those before it."""
        return cls.state_dict is not Codec.state_dict

    @abstractmethod
    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        """The tensors that `encode` gives: what is sent, all of it, scales and indices included.

        Both ends must find the same from what they know before they meet: `context` and their own state.
        """

    @abstractmethod
    def encode(self, x: Tensor, context: Context) -> Payload:
        """x[spec.shape] as a payload. May update the sender's state."""

    @abstractmethod
    def decode(self, payload: Payload, context: Context) -> Tensor:
        """The tensor that the receiver sees. Gives the same bits at both ends for the same payload."""

    def add_decoded(self, payload: Payload, context: Context, total: Tensor) -> None:
        """Add the tensor that `decode` gives to total[spec.shape], of fp32 or wider. The same bits, maybe sooner."""
        total += self.decode(payload, context)

    @classmethod
    def all_reduce(
        cls, codecs: Sequence[Codec], tensors: Sequence[Tensor], group: Collective, context: Context
    ) -> list[Tensor] | None:
        """The sums over the ranks of `group`, for codecs that can add payloads without decoding them.

        Returns None where a codec has no such way: its payloads are then gathered, decoded and added in rank order.
        """
        if not cls.additive:
            return None
        payloads = [codec.encode(x, context) for codec, x in zip(codecs, tensors, strict=True)]
        return add_payloads(codecs, payloads, group, context)

    def begin(self, contexts: Sequence[Context]) -> None:  # noqa: B027  (most codecs have nothing to fetch)
        """A step of such micro-batches begins: what is remembered of them may be fetched ahead."""

    def state_dict(self) -> dict[str, Tensor]:
        """What must survive a restart, by name; nothing for a stateless codec. It may change with the next tensor."""
        return {}

    def snapshot(self) -> dict[str, Tensor]:
        """A `state_dict` that stays as it is, on the CPU or in a file: for a save while training goes on."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.state_dict().items()}

    def restore(self, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        """`load_state_dict` of the tensors that `read` gives, one at a time where they are large."""
        self.load_state_dict({name: read(name) for name in names})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        if state:
            raise KeyError(f"codec {type(self).__name__} keeps no state, got {sorted(state)}")

    @property
    def payload_bytes(self) -> int:
        """Bytes of one payload on the wire, where they do not depend on when."""
        return nbytes(self.payload())


def add_payloads(
    codecs: Sequence[Codec], payloads: Sequence[Payload], group: Collective, context: Context
) -> list[Tensor]:
    """What the sums over ranks of payloads of additive codecs decode to, all in one all-reduce a part of a payload."""
    parts = [group.sum_flat(part) for part in zip(*payloads, strict=True)]
    return [codec.decode(total, context) for codec, total in zip(codecs, zip(*parts, strict=True), strict=True)]


def nbytes(specs: Sequence[TensorSpec]) -> int:
    """Bytes of a payload of such tensors."""
    return sum(spec.nbytes for spec in specs)


def pack(payload: Payload) -> Tensor:
    """A payload as one flat uint8 tensor, for one message."""
    parts = [part.contiguous().view(-1).view(torch.uint8) for part in payload]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def unpack(message: Tensor, specs: Sequence[TensorSpec]) -> Payload:
    """The inverse of `pack`."""
    parts, start = [], 0
    for spec in specs:
        piece = message[start : start + spec.nbytes]
        if (message.storage_offset() + start) % spec.dtype.itemsize:
            piece = piece.clone()  # a view must start at a multiple of its item size
        parts.append(piece.view(spec.dtype).view(spec.shape))
        start += spec.nbytes
    assert start == message.numel(), f"message of {message.numel()} bytes, payload of {start}"
    return tuple(parts)


def decode_message(codec: Codec, message: Tensor, context: Context) -> Tensor:
    """The tensor that the receiver sees of a payload that came as one message."""
    return codec.decode(unpack(message, codec.payload(context)), context)


def as_matrix(x: Tensor) -> Tensor:
    """x[..., D] as [rows, D]; a vector is one row."""
    return x.reshape(-1, x.shape[-1]) if x.dim() else x.reshape(1, 1)


codecs: Kind[Codec] = Kind("codec", "mcc.train.compress.codecs", Codec)
