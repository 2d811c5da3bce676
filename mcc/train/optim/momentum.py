"""Adam that sends its momentum: 1-bit Adam (Tang et al., arXiv 2102.02888, algorithm 1).

    g_i, m_i gradient and momentum of replica i   m, v moments   N replicas   T updates of the warm-up   t updates

After a warm-up of plain Adam the second moment is taken for what it will be: it is frozen. The first is then linear in
the gradients, so that replicas can add to it what they have and send the sum, which a codec with feedback leaves right
in the long run, where Adam of compressed gradients would square what the codec did:

    m_i = b1 m + (1 - b1) g_i
    m = the mean over the replicas of what was decoded of m_i
    w = w - lr (m / (1 - b1^t)) / max(sqrt(v / (1 - b2^T)) + eps, |m / (1 - b1^t)|)

with decoupled weight decay before. The maximum is ours: entries without a gradient in the warm-up, rows of rare tokens
above all, have no variance, and would move by |m| / eps. No entry moves by more than lr. The mean gradient is nowhere
known then, nor its norm. Clipping scales all replicas' gradients alike, by the root of the mean square of their norms,
which is never below the norm of their mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mcc.core.errors import MccError
from mcc.train.compress.spec import CodecSpec
from mcc.train.optim.config import OptimConfig
from mcc.train.parallel.tensor import Clock


class CompressedMomentum:
    """The update of Adam with a frozen second moment.

    Args:
        optimizer: AdamW, whose moments are used.
        parameters: what it works on, by name.
        config: the optimizer's settings.
        spec: of `dp.grad`, with of=momentum.
        clock: the engine's.

    Attributes:
        frozen: updates after which the second moment was frozen; None: not yet.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[str, nn.Parameter],
        config: OptimConfig,
        spec: CodecSpec,
        clock: Clock,
    ) -> None:
        self.optimizer, self.parameters, self.config, self.spec, self.clock = optimizer, parameters, config, spec, clock
        self.frozen: int | None = None

    @property
    def active(self) -> bool:
        """Whether the momentum is sent in this step."""
        return self.clock.active(self.spec)

    def mix(self, updates: int) -> None:
        """Make every gradient this replica's momentum, after so many updates.

        Raises:
            MccError: there was none yet.
        """
        if not updates:
            raise MccError(
                f"--compress {self.spec.site}=...,of=momentum: no update was made in the warm-up, so there is no "
                "variance to freeze: every step overflowed",
                "a longer warmup=, or --initial-loss-scale",
            )
        if self.frozen is None:
            self.frozen = updates
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            moment = self.optimizer.state[parameter]["exp_avg"]
            parameter.grad.lerp_(moment, self.config.adam_beta1)

    def step(self, updates: int) -> None:
        """Take the gradients for the new momentum, and update the parameters after so many updates."""
        assert self.frozen is not None
        first = 1 - self.config.adam_beta1 ** (updates + 1)
        second = 1 - self.config.adam_beta2**self.frozen
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                state = self.optimizer.state[parameter]
                state["exp_avg"].copy_(parameter.grad)
                root = (state["exp_avg_sq"] / second).sqrt_().add_(self.config.adam_eps)
                # A variance that the warm-up hardly saw (rows of rare tokens) is no measure: lr is the largest move.
                root = torch.maximum(root, parameter.grad.abs() / first)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.addcdiv_(parameter.grad, root, value=-group["lr"] / first)
