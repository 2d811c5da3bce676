"""Error feedback: what a codec loses of one tensor is added to the next (Seide et al. 2014; arXiv 1901.09847).

With x_t the tensors, y_t what the receiver sees and e_t the error kept,

    y_t = D(E(x_t + e_t))    e_{t+1} = x_t + e_t - y_t

the sum telescopes: sum y_t = sum x_t - e_T, so nothing is lost for good.

Some tensors of a stream may go as they are (`when=epilogue`). The next of them takes the error with it, y = x + e and
e = 0; `lazy` keeps it for the next compressed one, in another step if need be (Optimus-CC's lazy error propagation,
arXiv 2301.09830). Both telescope. In evaluation tensors are coded as they are, and the error stays what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec, add_payloads

if TYPE_CHECKING:
    from mcc.train.compress.collective import Collective


class Feedback(Codec):
    """A codec with error feedback. The error lives at the sender; the receiver decodes as without it.

    Errors are float32 whatever the tensors are: in bfloat16 a small error would vanish beside its tensor.

    Args:
        inner: the codec.
        lazy: the error waits for the next tensor that is compressed.
    """

    source = "error feedback, arXiv 1901.09847, algorithm 1"

    def __init__(self, inner: Codec, lazy: bool = False) -> None:
        super().__init__(inner.options, inner.spec, inner.key)
        self.inner, self.lazy = inner, lazy
        self.error = torch.zeros(inner.spec.shape)

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        return self.inner.payload(context)

    def encode(self, x: Tensor, context: Context) -> Payload:
        if not context.training:
            return self.inner.encode(x, context)
        wanted = x.float() + self.error.to(x.device)
        payload = self.inner.encode(wanted, context)
        self.error = wanted - self.inner.decode(payload, context).float()
        return payload

    def decode(self, payload: Payload, context: Context) -> Tensor:
        return self.inner.decode(payload, context)

    def add_decoded(self, payload: Payload, context: Context, total: Tensor) -> None:
        self.inner.add_decoded(payload, context, total)

    def pass_by(self, x: Tensor) -> Tensor:
        """What is sent for x where the stream goes uncompressed: with the error that was kept, unless `lazy`."""
        if self.lazy or not bool(self.error.any()):
            return x
        wanted = x.float() + self.error.to(x.device)
        sent = wanted.to(x.dtype)
        self.error = wanted - sent.float()  # what x's dtype cannot hold; zero in float32
        return sent

    @classmethod
    def all_reduce(
        cls, codecs: Sequence[Codec], tensors: Sequence[Tensor], group: Collective, context: Context
    ) -> list[Tensor] | None:
        """The inner codec's sums, with each rank's error: what the sum misses of its own tensor.

        That is its own payload's error where payloads are added, and otherwise what the mean misses (PowerSGD,
        algorithm 2). Either way the errors of all ranks sum to what the sum misses.
        """
        wrapped = [codec for codec in codecs if isinstance(codec, Feedback)]
        inner = [codec.inner for codec in wrapped]
        if not inner:
            return []
        if not context.training:
            return type(inner[0]).all_reduce(inner, tensors, group, context)
        wanted = [x.float() + codec.error.to(x.device) for codec, x in zip(wrapped, tensors, strict=True)]
        if type(inner[0]).additive:
            payloads = [codec.encode(want, context) for codec, want in zip(inner, wanted, strict=True)]
            kept = [codec.decode(payload, context) for codec, payload in zip(inner, payloads, strict=True)]
            sums: list[Tensor] | None = add_payloads(inner, payloads, group, context)
        else:
            sums = type(inner[0]).all_reduce(inner, wanted, group, context)
            kept = [total.float() / group.size for total in sums or []]
        if sums is None:
            return None
        for codec, want, own in zip(wrapped, wanted, kept, strict=True):
            codec.error = want - own.float()
        return sums

    def state_dict(self) -> dict[str, Tensor]:
        return {"error": self.error, **{f"inner.{k}": v for k, v in self.inner.state_dict().items()}}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.error = state["error"].to(self.error)
        self.inner.load_state_dict({k.removeprefix("inner."): v for k, v in state.items() if k != "error"})
