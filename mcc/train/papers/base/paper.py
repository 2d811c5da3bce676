"""A paper's comparison: a declared list of settings, each one ordinary training run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

from mcc.core.events import Reporter
from mcc.core.plugins import Kind
from mcc.train.papers.base.config import PaperConfig, Place

DENSE = "dense"
# Scores of the model as it is exported, and of the model as it was trained: through its codecs.
BOTH = {"run.eval_codec": "both"}
THROUGH = "_codec"  # the ending of the latter's names
Values = Mapping[str, Any]  # of `TrainConfig`, by path: {"run.train_iters": 64}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table.

    Args:
        name: of the paper's own table, where it has one.
        compress: values of `--compress`.
        values: of `TrainConfig` by path, over the paper's.
        twin: the run has no time of its own: it differs from another in its seed alone.
        full: part of `--size full` alone, or of `--only`.
    """

    name: str
    compress: tuple[str, ...] = ()
    values: Values = field(default_factory=dict)
    twin: bool = False
    full: bool = False


class Paper(ABC):
    """A comparison. The first setting is dense: what all others are measured against.

    Attributes:
        source: the paper.
        layout: ranks by axis: tp=2,pp=2.
        rates: of the links that steps are timed on.
        quality: the title among `figures` that the plot shows.
    """

    source: ClassVar[str]
    layout: ClassVar[str]
    rates: ClassVar[Sequence[str]]
    quality: ClassVar[str]

    @abstractmethod
    def settings(self) -> Sequence[Setting]:
        """The rows of the table."""

    @abstractmethod
    def training(self, config: PaperConfig, place: Place, reporter: Reporter) -> Values:
        """What all runs share; makes the data that they train on in `place.work`, unless it is there.

        Raises:
            UsageError: a model or a data set is not where it should be.
        """

    @abstractmethod
    def figures(self, scores: Values) -> dict[str, float]:
        """Columns of the table from a run's last scores: `{"accuracy": 0.8}`."""

    def timed(self, training: Values, place: Place, reporter: Reporter) -> Values:
        """What a run on shaped links has instead; of `TrainConfig` by path, over `training`."""
        return {}

    @property
    def axes(self) -> dict[str, int]:
        """Ranks by axis."""
        parts = (part.split("=") for part in self.layout.split(","))
        return {axis: int(size) for axis, size in parts}

    @property
    def ranks(self) -> int:
        """Ranks of every run."""
        return prod(self.axes.values())


papers = Kind("paper", "mcc.train.papers", Paper)
