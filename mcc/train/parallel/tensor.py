"""Tensor parallelism: Megatron-LM's f and g (arXiv 1909.08053, section 3) as autograd functions, with codecs inside.

The codec of `tp.forward` stands in g's forward sum, that of `tp.backward` in f's backward sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.train.compress.codec import Codec, Context, TensorSpec
from mcc.train.compress.collective import Collective, CompressedSum
from mcc.train.compress.spec import CodecSpec
from mcc.train.parallel.mesh import Mesh


class _SumForward(torch.autograd.Function):
    """g: the sum forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
        return total(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class _SumBackward(torch.autograd.Function):
    """f: the identity forward, the sum backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.total = total
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.total(grads[0].contiguous()), None


@dataclass
class Clock:
    """The step that the engine is at, of how many; read by the codecs."""

    train_iters: int = 1
    step: int = 0

    def context(self, microbatch: int = 0) -> Context:
        """The codecs' context now."""
        return Context(step=self.step, microbatch=microbatch)

    def active(self, spec: CodecSpec | None) -> bool:
        """Whether a site with `spec` compresses now."""
        return spec is not None and spec.active(self.step, self.train_iters)


class Site:
    """A place whose sums a codec compresses: one stream per key, made when its shape is first seen."""

    def __init__(self, spec: CodecSpec | None, group: Collective, clock: Clock) -> None:
        self.spec, self.group, self.clock = spec, group, clock
        self.streams: dict[str, CompressedSum] = {}
        self.waiting: dict[str, dict[str, Tensor]] = {}

    def sum(self, x: Tensor, key: str, dense: bool) -> Tensor:
        """The sum over ranks of x, a new tensor; compressed unless `dense` or the site has no codec."""
        if self.group.size == 1:
            return x
        if dense or self.spec is None or not self.clock.active(self.spec):
            return self.group.sum_(x.clone())
        stream = self.streams.get(key)
        if stream is None:
            stream = CompressedSum(self.spec, TensorSpec(tuple(x.shape), x.dtype), key, self.group)
            self.streams[key] = stream
            for name, codec in stream.codecs().items():
                restore(codec, self.waiting.pop(f"{key}/{name}", None))
        return stream(x, self.clock.context())

    def codecs(self) -> dict[str, Codec]:
        """Every codec in use, by key."""
        return {f"{key}/{name}": c for key, stream in self.streams.items() for name, c in stream.codecs().items()}


class ParallelAxes(Axes):
    """The tensor-parallel axis over a mesh."""

    def __init__(self, mesh: Mesh, compress: Mapping[str, CodecSpec], clock: Clock) -> None:
        self.size, self.rank = mesh.tp, mesh.tp_rank
        self.forward = Site(compress.get("tp.forward"), mesh.collective("tp", "tp.forward"), clock)
        self.backward = Site(compress.get("tp.backward"), mesh.collective("tp", "tp.backward"), clock)
        self.vocab = mesh.collective("tp", "tp.vocab")
        self._dense = False

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Within the block nothing is compressed: evaluation, as the converted model will compute."""
        self._dense, before = True, self._dense
        try:
            yield
        finally:
            self._dense = before

    def enter(self, x: Tensor, key: str) -> Tensor:
        out: Tensor = _SumBackward.apply(x, lambda grad: self.backward.sum(grad, key, self._dense))
        return out

    def leave(self, x: Tensor, key: str) -> Tensor:
        out: Tensor = _SumForward.apply(x, lambda part: self.forward.sum(part, key, self._dense))
        return out

    def sum_vocab(self, x: Tensor) -> Tensor:
        out: Tensor = _SumForward.apply(x, lambda part: self.vocab.sum_(part.clone()))
        return out

    def enter_vocab(self, x: Tensor) -> Tensor:
        out: Tensor = _SumBackward.apply(x, lambda grad: self.vocab.sum_(grad.clone()))
        return out

    def sum_(self, x: Tensor) -> Tensor:
        return self.vocab.sum_(x)

    def max_(self, x: Tensor) -> Tensor:
        return self.vocab.max_(x)


def restore(codec: Codec, state: dict[str, Tensor] | None) -> None:
    """Give a codec the state of a checkpoint, if there is one."""
    if state is not None:
        codec.load_state_dict(state)
