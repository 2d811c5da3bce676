"""Tensor parallelism: Megatron-LM's f and g (arXiv 1909.08053, section 3) as autograd functions, with codecs inside.

The codec of `tp.forward` stands in g's forward sum, that of `tp.backward` in f's backward sum. With sequence
parallelism these sums are reduce-scatters, and what then gathers the tokens again is coded as well: `tp.forward` is
all that is sent forward, `tp.backward` all that is sent backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mcc.models.base.axes import Axes
from mcc.models.base.bottleneck import Bottleneck
from mcc.train.compress.codec import Codec, Context, TensorSpec
from mcc.train.compress.collective import Collective, CompressedGather, CompressedScatter, CompressedSum
from mcc.train.compress.spec import CodecSpec
from mcc.train.parallel import sequence
from mcc.train.parallel.keys_values import Coders, Coding
from mcc.train.parallel.mesh import Mesh
from mcc.train.parallel.places import Selects, coded_keys
from mcc.train.parallel.ring import Ring
from mcc.train.parallel.stages import Stages
from mcc.train.parallel.tokens import Dealt

Stream = CompressedSum | CompressedScatter | CompressedGather


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
    """The step that the engine is at, of how many; read by the codecs.

    Attributes:
        epoch: passes over the data that were completed before the step.
        samples: ids of each micro-batch's samples; None where they have none.
        training: False while the engine evaluates.
        microbatch: the one that this rank computes now, forward or backward.
    """

    train_iters: int = 1
    step: int = 0
    epoch: int = 0
    samples: Sequence[tuple[int, ...]] | None = None
    training: bool = True
    microbatch: int = 0

    def begin(self, samples: Sequence[tuple[int, ...]] | None, epoch: int = 0, training: bool = True) -> None:
        """A step, or a batch of an evaluation, begins."""
        self.samples, self.epoch, self.training = samples, epoch, training

    def context(self, microbatch: int | None = None) -> Context:
        """The codecs' context now; without a micro-batch it has no samples."""
        known = microbatch is not None and self.samples is not None
        samples = self.samples[microbatch] if known else None  # type: ignore[index]
        return Context(
            step=self.step, microbatch=microbatch or 0, epoch=self.epoch, samples=samples, training=self.training
        )

    def active(self, spec: CodecSpec | None) -> bool:
        """Whether a site with `spec` compresses now; an evaluation through codecs waits for no step of training."""
        return spec is not None and (not self.training or spec.active(self.step, self.train_iters, self.epoch))


class Site:
    """A place whose sums, or their halves, a codec compresses: a stream per key, made when its shape is first seen.

    Keys that `selects` does not select stay uncompressed.
    """

    def __init__(self, spec: CodecSpec | None, group: Collective, clock: Clock, selects: Selects) -> None:
        self.spec, self.group, self.clock = spec, group, clock
        self.selects = cache(selects)
        self.streams: dict[str, Stream] = {}
        self.waiting: dict[str, dict[str, Tensor]] = {}

    def sum(self, x: Tensor, key: str, dense: bool) -> Tensor:
        """The sum over ranks of x, a new tensor; compressed unless `dense` or the site has no codec."""
        if self.group.size == 1:
            return x
        spec = self._spec(key, dense)
        if spec is None:
            return self.group.sum_(x.clone())
        stream = self._stream(CompressedSum, spec, x, key)
        assert isinstance(stream, CompressedSum)
        return stream(x, self.clock.context(self.clock.microbatch))

    def scatter(self, x: Tensor, key: str, dense: bool) -> Tensor:
        """This rank's tokens [B, T/P, D] of the sum over ranks of x[B, T, D]; compressed as `sum` is."""
        pieces, spec = x.chunk(self.group.size, 1), self._spec(key, dense)
        if spec is None:
            return self.group.scatter_sum(pieces)
        stream = self._stream(CompressedScatter, spec, pieces[0], key)
        assert isinstance(stream, CompressedScatter)
        return stream(pieces, self.clock.context(self.clock.microbatch))

    def gather(self, x: Tensor, key: str, dense: bool) -> Tensor:
        """x[B, T/P, D] of all ranks as [B, T, D]; compressed as `sum` is."""
        spec = self._spec(key, dense)
        if spec is None:
            return sequence.gather(x, self.group)
        stream = self._stream(CompressedGather, spec, x, key)
        assert isinstance(stream, CompressedGather)
        return torch.cat(stream(x, self.clock.context(self.clock.microbatch)), 1)

    def codecs(self) -> dict[str, Codec]:
        """Every codec in use, by key."""
        return {f"{key}/{name}": c for key, stream in self.streams.items() for name, c in stream.codecs().items()}

    def _spec(self, key: str, dense: bool) -> CodecSpec | None:
        return self.spec if not dense and self.clock.active(self.spec) and self.selects(key) else None

    def _stream(self, kind: type[Stream], spec: CodecSpec, x: Tensor, key: str) -> Stream:
        """The stream of `key`, of tensors like x."""
        stream = self.streams.get(key)
        if stream is None:
            stream = self.streams[key] = kind(spec, TensorSpec(tuple(x.shape), x.dtype), key, self.group)
            for name, codec in stream.codecs().items():
                restore(codec, self.waiting.pop(f"{key}/{name}", None))
        return stream


class ParallelAxes(Axes):
    """The tensor-parallel and the context-parallel axis over a mesh.

    Args:
        mesh: this rank's place.
        compress: the codec of each site.
        clock: the engine's clock.
        sequence: shard the hidden states between the sharded regions over the tokens (Megatron-LM's
            --sequence-parallel).
        zigzag: whether context parallelism deals the tokens zig-zag, for a causal model; see `Dealt`.
        stages: the model's, for codecs of some of its layers.

    Attributes:
        trained: the codec of `tp.forward`, where it is trained with the model and so no wire's.
    """

    trained: CodecSpec | None = None

    def __init__(
        self,
        mesh: Mesh,
        compress: Mapping[str, CodecSpec],
        clock: Clock,
        sequence: bool = False,
        zigzag: bool = True,
        stages: Stages | None = None,
    ) -> None:
        self.size, self.rank = mesh.tp, mesh.tp_rank
        self.sequence = sequence and mesh.tp > 1
        self.context_size, self.context_rank = mesh.cp, mesh.cp_rank
        self.forward, self.backward = (
            Site(compress.get(site), mesh.collective("tp", site), clock, coded_keys(compress.get(site), stages))
            for site in ("tp.forward", "tp.backward")
        )
        self.vocab = mesh.collective("tp", "tp.vocab")
        self.tokens = mesh.collective("tp", "tp.tokens")
        self.dealt = Dealt(mesh.cp, mesh.cp_rank, zigzag)
        self.ring = Ring(
            keys=mesh.collective("cp", "cp.kv"), grads=mesh.collective("cp", "cp.grad"), dealt=self.dealt
        )  # fmt: skip
        self.keys_values = Coders(compress["cp.kv"]) if "cp.kv" in compress else None
        self._keys_selected = cache(coded_keys(compress.get("cp.kv"), stages))
        self.clock = clock
        self._dense = False

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Within the block nothing is compressed: evaluation, as the converted model will compute."""
        self._dense, before = True, self._dense
        try:
            yield
        finally:
            self._dense = before

    @property
    def compresses_nothing(self) -> bool:
        """Whether this is within `dense`."""
        return self._dense

    def leave_out_of_graphs(self) -> None:
        """Keep torch.compile away from what talks to other ranks, or draws numbers: its graphs end there and begin
        anew."""
        names = ["enter", "leave"] if self.size > 1 else []
        names += ["leave_through"] if self.trained else []
        names += ["attend"] if self.dealt.size > 1 else []
        for name in [*names, "attend_by_place"]:
            setattr(self, name, torch.compiler.disable(getattr(self, name)))

    def enter(self, x: Tensor, key: str) -> Tensor:
        if self.size == 1:
            return x
        if self.sequence:
            return sequence.gathered(x, *self._maps(self.forward, self.backward, key))
        out: Tensor = _SumBackward.apply(x, lambda grad: self.backward.sum(grad, key, self._dense))
        return out

    def leave(self, x: Tensor, key: str) -> Tensor:
        if self.size == 1:
            return x
        if self.sequence:
            return sequence.scattered(x, *self._maps(self.backward, self.forward, key))
        out: Tensor = _SumForward.apply(x, lambda part: self.forward.sum(part, key, self._dense))
        return out

    def leave_through(self, x: Tensor, codec: Bottleneck, key: str) -> Tensor:
        if self._dense or not self.clock.active(self.trained):
            return self.leave(x, key)
        return super().leave_through(x, codec, key)

    def cross(self, x: Tensor, codec: Bottleneck) -> Tensor:
        return x if self._dense else super().cross(x, codec)

    def _maps(self, gather: Site, scatter: Site, key: str) -> tuple[sequence.Map, sequence.Map]:
        dense = self._dense
        return lambda x: gather.gather(x, key, dense), lambda x: scatter.scatter(x, key, dense)

    def sum_vocab(self, x: Tensor) -> Tensor:
        if self.size == 1:
            return x
        out: Tensor = _SumForward.apply(x, lambda part: self.vocab.sum_(part.clone()))
        return out

    def enter_vocab(self, x: Tensor) -> Tensor:
        if self.size == 1:
            return x
        out: Tensor = _SumBackward.apply(x, lambda grad: self.vocab.sum_(grad.clone()))
        return out

    def own_tokens(self, x: Tensor) -> Tensor:
        return sequence.own_tokens(x, self.tokens) if self.sequence else x

    def all_tokens(self, x: Tensor) -> Tensor:
        return sequence.all_tokens(x, self.tokens) if self.sequence else x

    def positions(self, tokens: int, device: torch.device) -> Tensor:
        return self.dealt.positions(tokens, device) if self.dealt.size > 1 else super().positions(tokens, device)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool,
        padding: Tensor | None = None,
        dropout: float = 0.0,
        key: str = "",
    ) -> Tensor:
        if self.dealt.size == 1:
            return super().attend(q, k, v, causal, padding, dropout)
        coding, coders = None, self.keys_values
        active = coders is not None and not self._dense and self.clock.active(coders.spec)
        if active and coders is not None and self._keys_selected(key):
            coding = Coding(coders, key, self.clock.context(self.clock.microbatch))
        return self.ring.attend(q, k, v, causal, padding, dropout, coding)

    def sum_(self, x: Tensor) -> Tensor:
        return self.vocab.sum_(x)

    def max_(self, x: Tensor) -> Tensor:
        return self.vocab.max_(x)


def restore(codec: Codec, state: dict[str, Tensor] | None) -> None:
    """Give a codec the state of a checkpoint, if there is one."""
    if state is not None:
        codec.load_state_dict(state)
