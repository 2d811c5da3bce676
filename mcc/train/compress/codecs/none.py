"""`none`: the tensor as it is, through the same path as every codec."""

from __future__ import annotations

from torch import Tensor

from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec


class Identity(Codec):
    """The tensor as it is: proves a site's path, since it equals dense training bit for bit."""

    source = "identity"
    exact = True

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        return (self.spec,)

    def encode(self, x: Tensor, context: Context) -> Payload:
        # Factors of small matrices come here: a conversion to the same dtype shows in their time.
        return (x if x.dtype is self.spec.dtype else x.to(self.spec.dtype),)

    def decode(self, payload: Payload, context: Context) -> Tensor:
        return payload[0]
