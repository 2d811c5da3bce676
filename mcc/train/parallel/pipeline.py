"""Pipeline parallelism on torch's own schedules, each message one compressed payload.

`CompressedStage` replaces the tensor of every send and receive that torch's stage asks for by one flat payload, and
decodes it where torch takes what it received. A micro-batch's index is the method's argument, so codecs see it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from mcc.core.errors import UsageError
from mcc.models.base.transformer import Stage
from mcc.train.compress.codec import Codec, TensorSpec, pack, unpack
from mcc.train.compress.spec import CodecSpec
from mcc.train.parallel.mesh import Mesh
from mcc.train.parallel.tensor import Clock

SCHEDULES: dict[str, type[PipelineScheduleSingle]] = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}
Loss = Callable[[Tensor, Tensor], Tensor]


class CompressedStage(PipelineStage):
    """A pipeline stage whose neighbours exchange payloads. Without codecs it is torch's, with its bytes counted.

    Args:
        forward, backward: the codecs of `pp.forward` and `pp.backward`, or None.
        hidden: shape and dtype of the activations at a stage boundary.
    """

    def __init__(
        self,
        module: Stage,
        mesh: Mesh,
        hidden: TensorSpec,
        output: TensorSpec,
        forward: CodecSpec | None,
        backward: CodecSpec | None,
        clock: Clock,
    ) -> None:
        B, T, _ = hidden.shape
        # Static shapes: inferring them would run the module, and codecs with state, once too often.
        example = torch.empty(B, T, dtype=torch.long) if mesh.first else _example(hidden)
        super().__init__(
            module,
            mesh.pp_rank,
            mesh.pp,
            torch.device("cpu"),
            input_args=example,
            output_args=_example(output if mesh.last else hidden),
            group=mesh.device.get_group("pp"),
        )
        self.wire, self.clock = mesh.wire, clock
        self.specs = {"pp.forward": forward, "pp.backward": backward}
        self.ends: dict[str, Codec] = {}
        before, after = f"boundary{mesh.pp_rank - 1}", f"boundary{mesh.pp_rank}"
        for spec, key, there in (
            (forward, f"{after}/send", not mesh.last),
            (forward, f"{before}/receive", not mesh.first),
            (backward, f"{before}/send", not mesh.first),
            (backward, f"{after}/receive", not mesh.last),
        ):
            if spec is not None and there:
                boundary, end = key.split("/")
                self.ends[f"{spec.site}/{end}"] = spec.make(hidden, boundary)
        self.messages: dict[tuple[str, int], Tensor] = {}

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return self._send(super().get_fwd_send_ops(fwd_chunk_id), "pp.forward", fwd_chunk_id)

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return self._send(super().get_bwd_send_ops(bwd_chunk_id), "pp.backward", bwd_chunk_id)

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return self._receive(super().get_fwd_recv_ops(fwd_chunk_id), "pp.forward", fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return self._receive(super().get_bwd_recv_ops(bwd_chunk_id), "pp.backward", bwd_chunk_id)

    def _retrieve_recv_activations(self, fwd_chunk_id: int) -> Any:
        if not self.is_first:
            self._decode("pp.forward", fwd_chunk_id, self.args_recv_info[fwd_chunk_id])
        return super()._retrieve_recv_activations(fwd_chunk_id)

    def _retrieve_recv_grads(self, bwd_chunk_id: int) -> Any:
        self._decode("pp.backward", bwd_chunk_id, self.grad_recv_info[bwd_chunk_id])
        return super()._retrieve_recv_grads(bwd_chunk_id)

    def _codec(self, site: str, end: str) -> Codec | None:
        return self.ends.get(f"{site}/{end}") if self.clock.active(self.specs[site]) else None

    def _send(self, ops: list[dist.P2POp], site: str, microbatch: int) -> list[dist.P2POp]:
        codec = self._codec(site, "send")
        for op in ops:
            # gloo takes a short message into a longer buffer without a word, so sizes are checked here.
            assert codec is None or op.tensor.shape == codec.spec.shape, f"{site}: {op.tensor.shape}"
            if codec is not None:
                with torch.no_grad():
                    op.tensor = pack(codec.encode(op.tensor.detach(), self.clock.context(microbatch)))
                assert op.tensor.numel() == codec.payload_bytes, f"{site}: {op.tensor.numel()} bytes"
            else:
                op.tensor = op.tensor.contiguous()
            self.wire.add(site, op.tensor.nbytes)
        return ops

    def _receive(self, ops: list[dist.P2POp], site: str, microbatch: int) -> list[dist.P2POp]:
        codec = self._codec(site, "receive")
        if codec is None:
            return ops
        for op in ops:
            op.tensor = torch.empty(codec.payload_bytes, dtype=torch.uint8)
            self.messages[site, microbatch] = op.tensor
        return ops

    def _decode(self, site: str, microbatch: int, infos: Any) -> None:
        codec = self._codec(site, "receive")
        if codec is None:
            return
        (info,) = infos
        message = self.messages.pop((site, microbatch))
        with torch.no_grad():
            info.buffer.copy_(codec.decode(unpack(message, codec.payload()), self.clock.context(microbatch)))


def _example(spec: TensorSpec) -> Tensor:
    return torch.empty(spec.shape, dtype=spec.dtype, device="meta", requires_grad=True)


class Pipeline:
    """The forward and backward passes of one step over all micro-batches, and forward-only evaluation.

    Args:
        module: this rank's stage.
        mesh: the mesh.
        microbatches: micro-batches a step.
        shape: (B, T) of one micro-batch.
        schedule: a name of `SCHEDULES`.
        compress: the codec of each site.
        clock: the engine's clock.
        loss: (local logits, targets) -> mean loss of a micro-batch.

    Raises:
        UsageError: the schedule needs more micro-batches.
    """

    def __init__(
        self,
        module: Stage,
        mesh: Mesh,
        microbatches: int,
        shape: tuple[int, int],
        schedule: str,
        compress: Mapping[str, CodecSpec],
        clock: Clock,
        loss: Loss,
    ) -> None:
        self.module, self.mesh, self.microbatches, self.shape, self.loss = module, mesh, microbatches, shape, loss
        self.hidden = TensorSpec((*shape, module.config.hidden_size), torch.float32)
        self.schedule: PipelineScheduleSingle | None = None
        self.ends: dict[str, Codec] = {}
        if mesh.pp == 1:
            return
        check_microbatches(schedule, microbatches, mesh.pp)
        rows = module.config.padded_vocab_size(mesh.tp) // mesh.tp
        stage = CompressedStage(
            module,
            mesh,
            self.hidden,
            TensorSpec((*shape, rows), torch.float32),
            compress.get("pp.forward"),
            compress.get("pp.backward"),
            clock,
        )
        self.ends = stage.ends
        self.schedule = SCHEDULES[schedule](stage, microbatches, loss_fn=self._share, scale_grads=False)

    def step(self, tokens_NT: Tensor, targets_NT: Tensor) -> float:
        """The mean loss over this replica's N samples (0 off the last stage); its gradients are accumulated."""
        if self.schedule is None:
            total = 0.0
            pairs = zip(tokens_NT.chunk(self.microbatches), targets_NT.chunk(self.microbatches), strict=True)
            for tokens_BT, targets_BT in pairs:
                share = self._share(self.module(tokens_BT), targets_BT)
                share.backward()
                total += share.item()
            return total
        losses: list[Tensor] = []
        inputs = (tokens_NT,) if self.mesh.first else ()
        target = targets_NT if self.mesh.last else None
        self.schedule.step(*inputs, target=target, losses=losses if self.mesh.last else None, return_outputs=False)
        return float(sum(loss.item() for loss in losses))

    @torch.no_grad()
    def evaluate(self, tokens_NT: Tensor, targets_NT: Tensor) -> float:
        """The mean loss over this replica's N samples, nothing compressed; 0 off the last stage."""
        total = 0.0
        for tokens_BT, targets_BT in zip(
            tokens_NT.chunk(self.microbatches), targets_NT.chunk(self.microbatches), strict=True
        ):
            x = tokens_BT
            if not self.mesh.first:
                x = torch.empty(self.hidden.shape, dtype=self.hidden.dtype)
                dist.recv(x, self.mesh.stage_rank(self.mesh.pp_rank - 1), group=self.mesh.device.get_group("pp"))
            y = self.module(x)
            if self.mesh.last:
                total += self._share(y, targets_BT).item()
            else:
                group = self.mesh.device.get_group("pp")
                dist.send(y.contiguous(), self.mesh.stage_rank(self.mesh.pp_rank + 1), group=group)
        return total

    def _share(self, logits: Tensor, targets: Tensor) -> Tensor:
        """A micro-batch's part of the mean loss: gradients then accumulate to the mean's."""
        return self.loss(logits, targets) / self.microbatches


def check_microbatches(schedule: str, microbatches: int, pp: int) -> None:
    """Refuse a step too short to fill the pipeline.

    Raises:
        UsageError: 1F1B with fewer micro-batches than stages.
    """
    if schedule == "1f1b" and microbatches < pp:
        raise UsageError(
            f"schedule 1f1b needs at least pp = {pp} micro-batches a step, but there are {microbatches}",
            "raise --global-batch-size, lower --micro-batch-size, or use --schedule gpipe",
        )
