"""Pipeline parallelism on torch's own schedules: one step over all micro-batches, and forward-only evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
    ScheduleZBVZeroBubble,
)

from mcc.core.errors import UsageError
from mcc.train.compress import host
from mcc.train.compress.codec import Codec, TensorSpec, decode_message, nbytes, pack
from mcc.train.compress.feedback import Feedback
from mcc.train.compress.orthogonality import Orthogonality
from mcc.train.compress.spec import CodecSpec
from mcc.train.parallel.mesh import Mesh
from mcc.train.parallel.stages import Stages
from mcc.train.parallel.tensor import Clock
from mcc.train.parallel.wire_stage import Chunk, WireStage, narrowed


@dataclass(frozen=True)
class Schedule:
    """One of torch's schedules.

    Attributes:
        single: with one stage a rank, or None. several: with more, or None.
        v: stages lie as a V, two a rank.
        splits: the backward pass is split into that of inputs and that of weights (zero bubble).
        fills: micro-batches that it needs at least, by (pp, vpp).
        rounds: whether micro-batches go in rounds of pp, by vpp.
    """

    single: Any
    several: Any
    v: bool = False
    splits: bool = False
    fills: Callable[[int, int], int] = lambda pp, vpp: 1
    rounds: Callable[[int], bool] = lambda vpp: False


SCHEDULES = {
    "gpipe": Schedule(ScheduleGPipe, ScheduleLoopedBFS),
    "1f1b": Schedule(
        Schedule1F1B,
        ScheduleInterleaved1F1B,
        fills=lambda pp, vpp: pp if vpp == 1 else 1,
        rounds=lambda vpp: vpp > 1,
    ),
    "zero-bubble": Schedule(
        ScheduleInterleavedZeroBubble, ScheduleInterleavedZeroBubble, splits=True, rounds=lambda vpp: True
    ),
    "zbv": Schedule(None, ScheduleZBVZeroBubble, v=True, splits=True),
    "dualpipev": Schedule(None, ScheduleDualPipeV, v=True, splits=True, fills=lambda pp, vpp: pp * vpp),
}

# (micro-batch, a stage's index, its input) -> its output: hidden states, or the last stage's share of the loss.
Run = Callable[[int, int, Tensor], Tensor]


class Pipeline:
    """The forward and backward passes of a step over all its micro-batches.

    Args:
        modules: this rank's stages, by index.
        stages: all stages.
        mesh: this rank's place.
        schedule: a name of `SCHEDULES`.
        compress: the codec of each site.
        clock: the engine's.
        run: computes a stage on a micro-batch.
        tokens: shape of a micro-batch's token ids.
        hidden: shape and dtype of the activations at a stage boundary.
        sent: boundaries, by the stage before, where a trained codec sends fewer channels -> how many.
    """

    def __init__(
        self,
        modules: Mapping[int, nn.Module],
        stages: Stages,
        mesh: Mesh,
        schedule: str,
        compress: Mapping[str, CodecSpec],
        clock: Clock,
        run: Run,
        tokens: tuple[int, ...],
        hidden: TensorSpec,
        sent: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.modules, self.stages, self.mesh, self.kind = modules, stages, mesh, SCHEDULES[schedule]
        self.run, self.hidden, self.sent, self.clock = run, hidden, sent, clock
        self.wired: list[WireStage] = []
        self._schedule: Any = None
        if mesh.pp > 1:
            self.wired = [
                WireStage(self._chunk(index), index, stages, mesh, tokens, hidden, compress, clock, sent)
                for index in modules
            ]

    def _chunk(self, index: int) -> Chunk:
        return Chunk(self.modules[index], lambda microbatch, x: self.run(microbatch, index, x))

    @property
    def first(self) -> bool:
        """Whether this rank has the first stage."""
        return 0 in self.modules

    @property
    def last(self) -> bool:
        """Whether this rank has the last stage."""
        return self.stages.last in self.modules

    def given(self, stage: int) -> TensorSpec:
        """Shape and dtype of what `stage` gives the next one, through a trained codec if there is one."""
        return narrowed(self.hidden, self.sent.get(stage))

    def codecs(self) -> dict[str, Codec]:
        """Every codec in use, by site and key."""
        return {key: codec for stage in self.wired for key, codec in stage.codecs().items()}

    def measure_orthogonality(self) -> list[Orthogonality]:
        """Measure it from now on where this rank's stages send gradients back with feedback."""
        for stage in self.wired:
            codec = stage.ends.get(("pp.backward", "send"))
            if isinstance(codec, Feedback):
                stage.probe = Orthogonality(stage.stage_index - 1, codec.lazy)
        return [stage.probe for stage in self.wired if stage.probe is not None]

    def step(self, tokens_NT: Tensor, microbatches: int) -> None:
        """Run every stage forward and backward on every micro-batch; gradients are accumulated.

        Args:
            tokens_NT: token ids of this replica, its micro-batches one after the other.
            microbatches: how many.
        """
        recorder = self.mesh.wire.recorder
        if self.mesh.pp == 1:
            for index, tokens_BT in enumerate(tokens_NT.chunk(microbatches)):
                with recorder.span("forward", index):
                    loss = self.run(index, 0, tokens_BT)
                with recorder.span("backward", index):
                    loss.backward()
            return
        schedule = self._schedule_for(microbatches)
        inputs = (tokens_NT,) if self.first else ()
        # The last stage's module gives the loss itself; torch asks for a target all the same.
        target = torch.zeros(microbatches) if self.last else None
        with recorder.messages():
            schedule.step(*inputs, target=target, return_outputs=False)

    @torch.no_grad()
    def evaluate(self, tokens_NT: Tensor, microbatches: int, coded: bool = False) -> None:
        """Run every stage on every micro-batch, forward alone: stage by stage, so that ranks work at once.

        Args:
            tokens_NT, microbatches: as in `step`.
            coded: what stages send each other goes through the codec of `pp.forward`, if there is one.
        """
        group, compute = self.mesh.device.get_group("pp"), self.mesh.compute
        chunks = tokens_NT.chunk(microbatches)
        local: dict[tuple[int, int], Tensor] = {}
        sent: list[tuple[Any, Tensor]] = []
        ends = {stage.stage_index: stage.ends for stage in self.wired} if coded else {}
        for index in self.modules:
            receiver, sender = (ends.get(index, {}).get(("pp.forward", end)) for end in ("receive", "send"))
            for microbatch in range(microbatches):
                if index == 0:
                    x = chunks[microbatch]
                elif (index - 1) in self.modules:
                    x = local.pop((index - 1, microbatch))
                else:
                    context = self.clock.context(microbatch)
                    wanted = self.given(index - 1) if coded else self.hidden  # trained codecs are gone around else
                    if receiver is not None:
                        wanted = TensorSpec((nbytes(receiver.payload(context)),), torch.uint8)
                    x = host.landing(torch.empty(wanted.shape, dtype=wanted.dtype, device=compute), group)
                    dist.recv(x, self.mesh.stage_rank(self.stages.rank_of(index - 1)), group=group)
                    x = x.to(compute)
                    if receiver is not None:
                        x = decode_message(receiver, x, context)
                y = self.run(microbatch, index, x)
                if index == self.stages.last:
                    continue
                if (index + 1) in self.modules:
                    local[index, microbatch] = y
                else:
                    if sender is not None:
                        y = pack(sender.encode(y, self.clock.context(microbatch)))
                    y = host.carried(y, group)
                    peer = self.mesh.stage_rank(self.stages.rank_of(index + 1))
                    sent.append((dist.isend(y, peer, group=group), y))
        for work, _ in sent:
            work.wait()

    def _schedule_for(self, microbatches: int) -> Any:
        """torch's schedule of so many micro-batches; another number (batch ramp-up) makes another."""
        if self._schedule is None or self._schedule._n_microbatches != microbatches:
            several = len(self.wired) > 1 or self.kind.single is self.kind.several
            make, held = (self.kind.several, self.wired) if several else (self.kind.single, self.wired[0])
            self._schedule = make(held, microbatches, loss_fn=_own_loss, scale_grads=False)
            for stage in self.wired:
                # Messages of several stages a rank come in the schedule's order, not in that of micro-batches; and
                # 1F1B is chosen to hold little, where gpipe holds a whole step's activations.
                stage.ahead = microbatches if self.kind.single is ScheduleGPipe and not several else 0
                order = self._schedule.pipeline_order  # by rank
                before = order[self.stages.rank_of(stage.stage_index - 1)] if stage.stage_index else ()
                stage.acknowledges = acknowledged(before, stage.stage_index - 1)
                stage.epilogues = {
                    index: epilogue(order[self.stages.rank_of(index)], index)
                    for index in (stage.stage_index, stage.stage_index + 1)
                    if index < len(self.stages)
                }
        return self._schedule


def acknowledged(actions: Iterable[Any], stage: int) -> dict[int, list[int]]:
    """A micro-batch -> those whose backward pass `stage` did between the forward passes of that one and the last.

    Args:
        actions: of the rank that has the stage, in torch's notation and order.
        stage: its index.
    """
    found: dict[int, list[int]] = {}
    done: list[int] = []
    for action in actions:
        for part in () if action is None else action.sub_actions or (action,):
            if part.stage_index != stage:
                continue
            if part.computation_type.name == "FORWARD":
                found[part.microbatch_index], done = done, []
            elif part.computation_type.name in ("FULL_BACKWARD", "BACKWARD_INPUT"):
                done.append(part.microbatch_index)
    return found


def epilogue(actions: Iterable[Any], stage: int) -> frozenset[int]:
    """The micro-batches whose gradients `stage` sends at or after its last forward pass.

    Under 1F1B these are the last p - k of stage k of p: the last one of the steady state and all while the pipeline
    drains, which nothing hides (Optimus-CC, arXiv 2301.09830, epilogue-only compression).

    Args:
        actions: of the rank that has the stage, in torch's notation and order.
        stage: its index.
    """
    last, sent = 0, dict[int, int]()
    for when, action in enumerate(actions):
        for part in () if action is None else action.sub_actions or (action,):
            if part.stage_index != stage:
                continue
            if part.computation_type.name == "FORWARD":
                last = when
            elif part.computation_type.name in ("FULL_BACKWARD", "BACKWARD_INPUT"):
                sent[part.microbatch_index] = when
    return frozenset(microbatch for microbatch, when in sent.items() if when >= last)


def _own_loss(output: Tensor, target: Tensor) -> Tensor:
    # A tensor of its own: torch detaches the stage's output after its backward pass.
    return output.clone()


def check_schedule(schedule: str, vpp: int, microbatches: int, pp: int) -> None:
    """Refuse what the schedule cannot do, with the numbers.

    Raises:
        UsageError: the schedule needs another number of stages a rank, or of micro-batches.
    """
    kind = SCHEDULES[schedule]
    if pp == 1:
        if vpp > 1:
            raise UsageError(f"vpp = {vpp} needs pipeline stages on several ranks", "--pp 2 or more")
        return
    if kind.v and vpp != 2:
        raise UsageError(f"schedule {schedule} has 2 stages a rank, not vpp = {vpp}", "--vpp 2")
    least = kind.fills(pp, vpp)
    if microbatches < least:
        size = f"pp = {pp}" if vpp == 1 else f"pp*vpp = {least}"
        raise UsageError(
            f"schedule {schedule} needs at least {size} micro-batches a step, but there are {microbatches}",
            "raise --global-batch-size, lower --micro-batch-size, or use --schedule gpipe",
        )
    if kind.rounds(vpp) and microbatches % max(1, microbatches // pp):
        raise UsageError(
            f"schedule {schedule} with vpp = {vpp} goes in rounds of pp = {pp} micro-batches, but there are "
            f"{microbatches}",
            f"make --global-batch-size a multiple of {pp} micro-batches",
        )
