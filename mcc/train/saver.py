"""When a run saves: at once, or in the background from a copy in host memory while training goes on."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch import Tensor

from mcc.ckpt import native
from mcc.ckpt.pieces import Piece
from mcc.core.events import SILENT, Reporter


class Saver:
    """Writes checkpoints of a run, one at a time; within the block, and finished when the block ends.

    Args:
        keep_last: checkpoints that stay; 0: all.
        background: copy the state and write the copy while training goes on.
        group: all ranks, for the messages of a background save alone; takes CPU tensors.
        reporter: told of every checkpoint.
    """

    def __init__(
        self,
        keep_last: int = 0,
        background: bool = False,
        group: dist.ProcessGroup | None = None,
        reporter: Reporter = SILENT,
    ) -> None:
        self.keep_last, self.background, self.group, self.reporter = keep_last, background, group, reporter
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._saved: Path | None = None

    def __call__(
        self, run: Path, iteration: int, state: dict[str, Any], manifest: Mapping[str, Any], tokenizer: str | None
    ) -> Path:
        """Save as `mcc.ckpt.native.save` does. Collective; waits for the save before this one.

        Raises:
            MccError: a rank could not write, now or in the save before this one.
        """
        self.wait()
        if not self.background:
            saved = native.save(run, iteration, state, manifest, tokenizer, keep=self.keep_last)
            self.reporter.note(f"saved {saved}")
            return saved
        copy = {key: host_copy(value) for key, value in state.items()}

        def write() -> None:
            try:
                self._saved = native.save(run, iteration, copy, manifest, tokenizer, self.group, self.keep_last)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self._thread.start()
        return run / native.folder_name(iteration)

    def poll(self) -> None:
        """Look whether a background save has ended.

        Raises:
            MccError: it failed.
        """
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            MccError: the save failed.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        self.reporter.note(f"saved {self._saved}")

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a failure the other ranks may be gone: their part of a save would be waited for in vain.
        if error is None:
            self.wait()


def host_copy(value: Any) -> Any:
    """A copy in host memory of a tensor, or of the tensor of a piece."""
    if isinstance(value, Piece) and value.ours:
        return value
    if isinstance(value, Piece):
        return replace(value, tensor=host_copy(value.tensor))
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone() if value.device.type == "cpu" else value.detach().to("cpu")


def own_group(wanted: bool) -> dist.ProcessGroup | None:
    """A gloo group of all ranks for somebody's messages alone; None when it is not wanted. Collective."""
    if not wanted or not dist.is_initialized():
        return None
    group: dist.ProcessGroup = dist.new_group(backend="gloo")
    return group
