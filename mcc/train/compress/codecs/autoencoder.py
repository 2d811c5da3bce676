"""`autoencoder`: fewer channels, by a linear layer at each end that is trained with the model.

    D last dim   Z channels that are sent   E[Z, D] encoder   D[D, Z] decoder

Its weights are the model's: the engine puts them into the stages (`mcc.train.parallel.trained`), where the loss's
gradients reach them, instead of asking for a codec on the wire. The codec here is that of fresh weights.

Source: MCBench, Bian et al. (arXiv 2301.02654), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.models.base.init import xavier
from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec

_SITES = ("tp.forward", "pp.forward")


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """Options of `autoencoder`."""

    dim: int = option(50, "channels that are sent, of the hidden size")

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise UsageError(f"autoencoder: dim = {self.dim} must be at least 1")


class Autoencoder(Codec):
    """Fewer channels, by a linear layer at each end that is trained with the model."""

    Options = AutoencoderOptions
    source = "MCBench, arXiv 2301.02654, section 3.2"
    trainable = True

    def __init__(self, options: AutoencoderOptions, spec: TensorSpec, key: str) -> None:
        super().__init__(options, spec, key)
        width = spec.shape[-1]
        self.sent = TensorSpec((*spec.shape[:-1], options.dim), spec.dtype)
        self.encoder = xavier(f"{key}.encoder", (options.dim, width), 0)
        self.decoder = xavier(f"{key}.decoder", (width, options.dim), 0)

    @classmethod
    def refusal(cls, site: str, options: AutoencoderOptions) -> str | None:
        if site not in _SITES:
            return f"the autoencoder is trained by what the model computes forward: {' or '.join(_SITES)}"
        return None

    @classmethod
    def feedback_refusal(cls, options: AutoencoderOptions) -> str | None:
        return "the autoencoder is trained by what it loses: there is nothing for feedback to add"

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        return (self.sent,)

    def encode(self, x: Tensor, context: Context) -> Payload:
        return (F.linear(x.to(self.spec.dtype), self.encoder.to(x.device, self.spec.dtype)),)

    def decode(self, payload: Payload, context: Context) -> Tensor:
        return F.linear(payload[0], self.decoder.to(payload[0].device, self.spec.dtype))
