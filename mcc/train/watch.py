"""What is told of a run while it trains: `metrics.jsonl`, the live line, TensorBoard, the trace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from mcc.core.errors import MccError
from mcc.core.events import Reporter, Task
from mcc.train import trace
from mcc.train.config import TrainConfig
from mcc.train.flops import flops_per_token, peak_flops
from mcc.train.live import Meter
from mcc.train.metrics import MetricsFile, memory_by_rank, total_bytes
from mcc.train.parallel.mesh import Mesh
from mcc.train.tensorboard import TensorBoard


class Watch:
    """Within the block, every rank tells of its steps; rank 0 writes and shows them.

    Args:
        config: the run.
        mesh: this rank's place; its wire has the recorder.
        iteration: steps taken before.
        reporter: rank 0's.
        group: takes CPU tensors.
        device: that computes. dtype: in which it does.
    """

    def __init__(
        self,
        config: TrainConfig,
        mesh: Mesh,
        iteration: int,
        reporter: Reporter,
        group: dist.ProcessGroup | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.mesh, self.reporter, self.group = config, mesh, reporter, group
        self.recorder = mesh.wire.recorder
        self.leader = dist.get_rank() == 0
        self.outputs: list[MetricsFile | TensorBoard] = []
        self._resources = ExitStack()
        self._task: Task | None = None
        self._traced = config.observe.traced() if config.observe.trace else range(0)
        self._began, self._first = iteration, True
        self._waited, self._logged, self._tokens = 0.0, iteration, 0
        on_gpu = device is not None and device.type == "cuda"
        if on_gpu:
            self.recorder.settle = torch.cuda.synchronize
        peak = peak_flops(torch.cuda.get_device_name(device) if on_gpu else "cpu", dtype)
        peak = None if peak is None else peak * dist.get_world_size()
        self.meter = Meter(config.run.train_iters, flops_per_token(config.model), peak)

    def __enter__(self) -> Watch:
        run, observe = self.config.run, self.config.observe
        if self.leader and run.save:
            self.outputs.append(MetricsFile(Path(run.save), self._began))
        if self.leader and observe.tensorboard_dir:
            board = TensorBoard(Path(observe.tensorboard_dir), self._began)
            self.outputs.append(self._resources.enter_context(board))
        self._task = self._resources.enter_context(self.reporter.task("training", total=run.train_iters, unit="steps"))
        self._task.advance(self._began)
        self._waited = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        try:
            self.recorder.on = False
            if error is None and self.recorder.events:  # the run ended with a traced step
                self._write_trace()
        finally:
            self._resources.close()

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """The block is step `step`, counted from 1; told of and written down within it, too."""
        self.recorder.step, self.recorder.on = step, step in self._traced
        if self.recorder.events and not self.recorder.on:
            with self.aside():
                self._write_trace()
        with self.recorder.span("step"):
            yield
        assert self._task is not None
        self._task.advance()

    def log(self, step: int, values: dict[str, Any], seen: int, last: bool) -> None:
        """Tell of a step, if it is one to tell of. Collective.

        Args:
            step: counted from 1.
            values: the first fields of the line; the loss among them.
            seen: tokens of the run so far.
            last: the step is the last, and told of in any case.
        """
        if not (last or step % self.config.run.log_interval == 0):
            return
        with self.recorder.span("log"):
            seconds, self._waited = time.perf_counter() - self._waited, time.perf_counter()
            steps = step - self._logged
            # Those seen before this process began are not its doing.
            tokens = seen - self._tokens if self._tokens else seen * steps // step
            self._logged, self._tokens = step, seen
            sent = {site: round(n / steps) for site, n in total_bytes(self.mesh.wire.take()).items()}
            line = {
                "step": step,
                **values,
                "tokens": seen,
                "step_time_s": seconds / steps,
                "tokens_per_s": tokens / seconds,
                "wire_bytes": sent,
            }
            share = self.meter.utilisation(line["tokens_per_s"])
            if share is not None:
                line["mfu"] = share
            if self._measures(step, steps):
                line["memory_bytes"] = memory_by_rank(self.group)
            self._append(line)
            self.meter.update(seconds / steps)
            rates = {site: n * steps / seconds for site, n in sent.items()}
            assert self._task is not None
            text = self.meter.line(step, values["loss"], line["tokens_per_s"], rates)
            self._task.describe(text)

    def told(self, step: int, values: dict[str, Any]) -> None:
        """A line of its own: the result of an evaluation after `step`."""
        self._append({"step": step, **values})

    @contextmanager
    def aside(self, kind: str = "log") -> Iterator[None]:
        """What happens in the block, of the trace's `kind`, does not count for the steps' durations."""
        began = time.perf_counter()
        try:
            with self.recorder.span(kind):
                yield
        finally:
            self._waited += time.perf_counter() - began

    def _measures(self, step: int, steps: int) -> bool:
        interval = self.config.observe.memory_interval
        due = self._first or step // interval > (step - steps) // interval if interval else False
        self._first = False
        return due

    def _append(self, line: dict[str, Any]) -> None:
        for output in self.outputs:
            output.append(line)

    def _write_trace(self) -> None:
        assert self.config.observe.trace is not None
        try:
            trace.write(Path(self.config.observe.trace), self.recorder, self.mesh.place, self.group)
        except MccError as error:  # no reason to lose the run
            self.reporter.warn(error.what)
        else:
            self.reporter.note(f"wrote {self.config.observe.trace}")
        self.recorder.events.clear()
