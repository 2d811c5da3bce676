"""A stage of torch's pipelines whose messages are one compressed payload each.

`WireStage` replaces the tensor of every send and receive that torch's stage asks for by one flat payload, and decodes
it where torch takes what it received. A micro-batch's index is the method's argument, so codecs see it. Neighbouring
stages on one rank (V schedules) hand tensors over without a message.

Memory: torch has a buffer for every message of a step, and its schedules of several stages a rank keep what they sent
until the step ends; both grow with the micro-batches. Here a buffer exists from its receive to its use, and what was
sent is let go when something that came back tells that it has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage

from mcc.train.compress import host, verify
from mcc.train.compress.codec import Codec, Context, TensorSpec, decode_message, nbytes, pack
from mcc.train.compress.feedback import Feedback
from mcc.train.compress.orthogonality import Orthogonality
from mcc.train.compress.spec import CodecSpec
from mcc.train.parallel.mesh import Mesh
from mcc.train.parallel.places import boundary_coded
from mcc.train.parallel.stages import Stages
from mcc.train.parallel.tensor import Clock


class Chunk(nn.Module):
    """A stage as torch's schedules call it: it knows which micro-batch it works on.

    Args:
        stage: the model's part.
        run: (micro-batch, stage's input) -> hidden states, or the last stage's loss.
    """

    def __init__(self, stage: nn.Module, run: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self.stage = stage
        self.run = run
        self.microbatch = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.microbatch, x)


class _Sent:
    """A send under way. torch's works keep their tensor as long as they live: waiting lets both go."""

    def __init__(self, work: dist.Work | None) -> None:
        self._work = work

    def wait(self) -> None:
        """Wait until the tensor has left. (gloo's own works can be waited for only once.)"""
        if self._work is not None:
            self._work.wait()
            self._work = None


class _Receive:
    """A receive that may have begun before torch asks for it. `then`: to be done once it is asked for."""

    def __init__(self, peer: int) -> None:
        self._peer = peer
        self._work: dist.Work | None = None
        self.then: Callable[[], None] | None = None

    def begin(self, tensor: Tensor, group: dist.ProcessGroup | None = None, tag: int = 0) -> None:
        """Begin, if it has not."""
        if self._work is None:
            self._work = dist.irecv(tensor, group=group, tag=tag, group_src=self._peer)

    def __call__(self, tensor: Tensor, group: dist.ProcessGroup | None = None, tag: int = 0, **_: Any) -> Any:
        self.begin(tensor, group, tag)
        if self.then is not None:
            self.then()
        work, self._work = self._work, None
        return work


class WireStage(PipelineStage):
    """A pipeline stage whose neighbours exchange payloads. Without codecs it is torch's, with its bytes counted.

    Args:
        chunk: the stage's module; the last stage's returns its loss.
        index: of the stage. stages: all of them.
        mesh: this rank's place.
        tokens: shape of a micro-batch's token ids.
        hidden: shape and dtype of the activations at a stage boundary.
        compress: the codec of each site; those of `pp.forward` and `pp.backward` are used here.
        clock: the engine's.
        sent: boundaries, by the stage before, where a trained codec sends fewer channels -> how many.

    Attributes:
        ahead: micro-batches of a step whose receives may begin early; 0: none.
        acknowledges: a micro-batch -> those whose gradients the stage before has used when it sends that one forward.
        probe: measures what feedback of `pp.backward` meets, where that is wanted.
        epilogues: of this stage and the one after: the micro-batches whose gradients a stage sends at or after its
            last forward pass.
    """

    def __init__(
        self,
        chunk: Chunk,
        index: int,
        stages: Stages,
        mesh: Mesh,
        tokens: tuple[int, ...],
        hidden: TensorSpec,
        compress: Mapping[str, CodecSpec],
        clock: Clock,
        sent: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self._before, self._after = (narrowed(hidden, sent.get(boundary)) for boundary in (index - 1, index))
        loss = torch.empty((), device="meta", requires_grad=True)
        # Static shapes: inferring them would run the module, and codecs with state, once too often.
        super().__init__(
            chunk,
            index,
            len(stages),
            mesh.compute,
            input_args=torch.empty(tokens, dtype=torch.long) if index == 0 else _example(self._before),
            output_args=loss if index == stages.last else _example(self._after),
            group=mesh.device.get_group("pp"),
        )
        self.chunk, self.wire, self.clock = chunk, mesh.wire, clock
        self.specs = {site: compress.get(site) for site in ("pp.forward", "pp.backward")}
        self.ends: dict[tuple[str, str], Codec] = {}
        self.messages: dict[tuple[str, int], Tensor] = {}
        self.acknowledges: dict[int, list[int]] = {}
        self.epilogues: dict[int, frozenset[int]] = {}
        self.ahead = 0
        self.probe: Orthogonality | None = None
        self._sent: dict[tuple[str, int], _Sent] = {}
        self._begun: dict[tuple[str, int], list[dist.P2POp]] = {}
        for site, end, neighbour in (
            ("pp.forward", "receive", index - 1),
            ("pp.backward", "send", index - 1),
            ("pp.forward", "send", index + 1),
            ("pp.backward", "receive", index + 1),
        ):
            spec, boundary = self.specs[site], min(index, neighbour)
            if spec is not None and boundary in stages.sent and boundary_coded(spec, stages, boundary):
                what = self._before if neighbour < index else self._after
                # Replicas' gradients are summed, tensor-parallel ranks must send the same.
                self.ends[site, end] = spec.make(what, f"boundary{boundary}", mesh.replica)

    def codecs(self) -> dict[str, Codec]:
        """Every codec in use, by site, boundary and end."""
        before, after = f"boundary{self.stage_index - 1}", f"boundary{self.stage_index}"
        where = {("pp.forward", "receive"): before, ("pp.backward", "send"): before}
        return {f"{site}/{where.get((site, end), after)}/{end}": codec for (site, end), codec in self.ends.items()}

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        self.chunk.microbatch = fwd_chunk_id
        with self._span("forward", fwd_chunk_id), _own_errors():
            return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)

    def backward_one_chunk(self, bwd_chunk_id: int, loss: Tensor | None = None, **kwargs: Any) -> Any:
        self.clock.microbatch = bwd_chunk_id
        with self._span("backward", bwd_chunk_id), _own_errors():
            found = super().backward_one_chunk(bwd_chunk_id, loss=loss, **kwargs)
        if loss is not None:
            loss.detach_()  # the schedule keeps it, and with its graph the stage's input
        self._arrived("pp.forward", bwd_chunk_id)  # its gradient came back
        return found

    def backward_weight_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        self.clock.microbatch = bwd_chunk_id
        with self._span("backward", bwd_chunk_id, "weights, "):
            return super().backward_weight_one_chunk(bwd_chunk_id, *args, **kwargs)

    def _span(self, kind: str, microbatch: int, what: str = "") -> AbstractContextManager[Any]:
        return self.wire.recorder.span(kind, microbatch, f"{what}stage {self.stage_index}")

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return self._send(super().get_fwd_send_ops(fwd_chunk_id), "pp.forward", fwd_chunk_id)

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return self._send(super().get_bwd_send_ops(bwd_chunk_id), "pp.backward", bwd_chunk_id)

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return self._with_next("pp.forward", fwd_chunk_id, self._forward_receives)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return self._with_next("pp.backward", bwd_chunk_id, self._backward_receives)

    def _forward_receives(self, microbatch: int) -> list[dist.P2POp]:
        self._allocate(self.args_recv_info[microbatch], self._before)
        return self._receive(super().get_fwd_recv_ops(microbatch), "pp.forward", microbatch)

    def _backward_receives(self, microbatch: int) -> list[dist.P2POp]:
        self._allocate(self.grad_recv_info.get(microbatch, ()), self._after)
        return self._receive(super().get_bwd_recv_ops(microbatch), "pp.backward", microbatch)

    def _with_next(self, site: str, microbatch: int, receives: Callable[[int], list[dist.P2POp]]) -> list[dist.P2POp]:
        """The receives of a micro-batch. When torch begins them, those of the next one begin, too.

        gloo sends nothing before its receiver waits for it: a receive that begins when its micro-batch's turn comes
        would leave the link idle while the stage computes.
        """
        ops = self._begun.pop((site, microbatch), None) or receives(microbatch)
        if not ops or host.carrier(ops[0].tensor.device.type, ops[0].group) != "gloo":
            return ops
        for op in ops:
            if not isinstance(op.op, _Receive):
                op.op = _Receive(op.group_peer)
        if microbatch + 1 < self.ahead:

            def begin_next() -> None:
                following = self._begun[site, microbatch + 1] = receives(microbatch + 1)
                for op in following:
                    op.op = _Receive(op.group_peer)
                    op.op.begin(op.tensor, op.group, op.tag)

            ops[-1].op.then = begin_next
        return ops

    def _get_init_p2p_neighbors_ops(self) -> list[dist.P2POp]:
        # torch 2.11 begins with messages between neighbours, in V schedules to itself too, which gloo cannot send.
        return [op for op in super()._get_init_p2p_neighbors_ops() if op.group_peer != self.group_rank]

    def _prepare_forward_infra(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._prepare_forward_infra(*args, **kwargs)
        for infos in self.args_recv_info.values():
            _release(infos)
        return found

    def _create_grad_recv_info(self, *args: Any, **kwargs: Any) -> Any:
        infos = super()._create_grad_recv_info(*args, **kwargs)
        _release(infos)
        return infos

    def _retrieve_recv_activations(self, fwd_chunk_id: int) -> Any:
        infos = self.args_recv_info[fwd_chunk_id]
        if not self.is_first:
            self._decode("pp.forward", fwd_chunk_id, infos)
            for info in infos:
                info.buffer.requires_grad_(self.has_backward)  # torch 2.11 does so where it makes its buffers
        found = super()._retrieve_recv_activations(fwd_chunk_id)
        if self.probe is not None:
            self.probe.received(fwd_chunk_id, found[0])
        _release(infos)
        for microbatch in self.acknowledges.get(fwd_chunk_id, ()):
            self._arrived("pp.backward", microbatch)
        return found

    def _retrieve_recv_grads(self, bwd_chunk_id: int) -> Any:
        infos = self.grad_recv_info[bwd_chunk_id]
        self._decode("pp.backward", bwd_chunk_id, infos)
        found = super()._retrieve_recv_grads(bwd_chunk_id)
        _release(infos)
        return found

    def clear_runtime_states(self) -> None:
        super().clear_runtime_states()
        self._sent.clear()
        self._begun.clear()

    def _allocate(self, infos: Any, spec: TensorSpec) -> None:
        """Buffers for what is about to be received."""
        for info in infos:
            if _buffer(info) is _RELEASED:
                info.buffer = torch.empty(spec.shape, dtype=spec.dtype, device=self.device)

    def _arrived(self, site: str, microbatch: int) -> None:
        sent = self._sent.pop((site, microbatch), None)
        if sent is not None:
            sent.wait()  # not long: the neighbour has it

    def _codec(self, site: str, end: str, microbatch: int) -> Codec | None:
        """The codec that this message goes through, if any: both ends find the same."""
        codec, spec = self.ends.get((site, end)), self.specs[site]
        if codec is None or spec is None or not self.clock.active(spec):
            return None
        sender = self.stage_index + (end == "receive")  # of a gradient
        late = spec.scope.when.kind != "epilogue" or microbatch in self.epilogues[sender]
        return codec if late else None

    def _send(self, ops: list[dist.P2POp], site: str, microbatch: int) -> list[dist.P2POp]:
        codec, context = self._codec(site, "send", microbatch), self.clock.context(microbatch)
        idle = self.ends.get((site, "send")) if codec is None else None
        for op in ops:
            if isinstance(idle, Feedback):
                with torch.no_grad():
                    op.tensor = idle.pass_by(op.tensor.detach())
            # gloo takes a short message into a longer buffer without a word, so sizes are checked here.
            assert codec is None or op.tensor.shape == codec.spec.shape, f"{site}: {op.tensor.shape}"
            if codec is not None:
                with torch.no_grad(), self.wire.recorder.span("encode", microbatch, site):
                    size = nbytes(codec.payload(context))
                    payload = codec.encode(op.tensor.detach(), context)
                    op.tensor = pack(payload)
                assert op.tensor.numel() == size, f"{site}: {op.tensor.numel()} bytes"
            if self.probe is not None and site == "pp.backward":
                self.probe.sent(context.step, microbatch, codec.error if isinstance(codec, Feedback) else None)
            self.wire.add(site, op.tensor.nbytes)
            if codec is not None and self.wire.verify:
                with torch.no_grad():
                    head = verify.header(op.tensor, codec.decode(payload, context))
                op.tensor = torch.cat([head, op.tensor])
            op.tensor = host.carried(op.tensor.detach(), op.group)
            # NCCL joins the works of a batch, and gives its own.
            if host.carrier(op.tensor.device.type, op.group) == "gloo":
                op.op = self._begin(op.group_peer, site, microbatch)
        return ops

    def _begin(self, peer: int, site: str, microbatch: int) -> Callable[..., _Sent]:
        """`dist.isend` whose work can be let go early."""

        def send(tensor: Tensor, group: dist.ProcessGroup | None = None, tag: int = 0, **_: Any) -> _Sent:
            # torch takes an operation that it does not know for a receive, and names the peer so.
            work = dist.isend(tensor, group=group, tag=tag, group_dst=peer)
            sent = self._sent[site, microbatch] = _Sent(work)
            return sent

        return send

    def _receive(self, ops: list[dist.P2POp], site: str, microbatch: int) -> list[dist.P2POp]:
        codec, context = self._codec(site, "receive", microbatch), self.clock.context(microbatch)
        for op in ops:
            wanted = op.tensor
            if codec is not None:
                head = verify.HEADER_BYTES if self.wire.verify else 0
                wanted = wanted.new_empty(head + nbytes(codec.payload(context)), dtype=torch.uint8)
            received = host.landing(wanted, op.group)
            if received is op.tensor:
                continue  # straight into torch's buffer
            op.tensor = received
            self.messages[site, microbatch] = op.tensor
        return ops

    def _decode(self, site: str, microbatch: int, infos: Any) -> None:
        codec, message = self._codec(site, "receive", microbatch), self.messages.pop((site, microbatch), None)
        if message is None:
            return
        (info,) = infos
        with torch.no_grad(), self.wire.recorder.span("decode", microbatch, site):
            message = message.to(info.buffer.device)
            if codec is not None:
                context = self.clock.context(microbatch)
                head, message = message.split([message.numel() - (size := nbytes(codec.payload(context))), size])
                coded, message = message, decode_message(codec, message, context)
                if self.wire.verify:
                    verify.check(head, coded, message, self._where(site, context))
            info.buffer.copy_(message)

    def _where(self, site: str, context: Context) -> str:
        """A message that came, in words."""
        sender = self.stage_index + (1 if site == "pp.backward" else -1)
        boundary = min(sender, self.stage_index)
        ranks = f"from stage {sender} to stage {self.stage_index}, pp ranks {self.stage_index_to_group_rank[sender]} "
        return (
            f"{site}, boundary {boundary}, step {context.step + 1}, micro-batch {context.microbatch}: {ranks}to "
            f"{self.group_rank}"
        )


@contextmanager
def _own_errors() -> Iterator[None]:
    """torch's stages raise a RuntimeError of their own for whatever a module raised: its cause is what went wrong."""
    try:
        yield
    except RuntimeError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None


def narrowed(hidden: TensorSpec, channels: int | None) -> TensorSpec:
    """Hidden states that a trained codec made `channels` wide; None: it did not."""
    return hidden if channels is None else TensorSpec((*hidden.shape[:-1], channels), hidden.dtype)


def _example(spec: TensorSpec) -> Tensor:
    return torch.empty(spec.shape, dtype=spec.dtype, device="meta", requires_grad=True)


# What stands for a buffer that was let go: torch 2.11 takes no None there.
_RELEASED = torch.empty(0)


def _buffer(info: Any) -> Tensor | None:
    """Where a message is received; None for an input of the model, which in torch 2.11 has no such attribute."""
    found: Tensor | None = getattr(info, "buffer", None)
    return found


def _release(infos: Any) -> None:
    """Let go of the buffers: what was received is in use now."""
    for info in infos:
        if _buffer(info) is not None:
            info.buffer = _RELEASED
