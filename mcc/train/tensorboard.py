"""The metrics' lines as TensorBoard's scalars: one a number, named by its place in the line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from mcc.core.errors import UsageError


def require_tensorboard() -> None:
    """Refuse where TensorBoard is not installed.

    Raises:
        UsageError: it is not.
    """
    if find_spec("tensorboard") is None:
        raise UsageError(
            "--tensorboard-dir needs the package tensorboard, which is not installed", "pip install 'mcc[tensorboard]'"
        )


class TensorBoard:
    """Writes scalars to `folder`; those after `iteration`, of a run that is continued there, are taken back."""

    def __init__(self, folder: Path, iteration: int) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=iteration + 1 if iteration else None, flush_secs=20)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write every number of a line of metrics at its step."""
        for name, value in scalars(line):
            self._writer.add_scalar(name, value, line["step"])

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def scalars(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a line: (name, value). A list is by rank.

    >>> dict(scalars({"step": 3, "loss": 2.5, "wire_bytes": {"dp.grad": 8}, "memory_bytes": [5, 6]}))
    {'loss': 2.5, 'wire_bytes/dp.grad': 8.0, 'memory_bytes/0': 5.0, 'memory_bytes/1': 6.0}
    """
    for name, value in line.items():
        if name == "step":
            continue
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, (list, tuple)):
            yield from scalars({str(i): item for i, item in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)
