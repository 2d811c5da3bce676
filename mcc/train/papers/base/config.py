"""What `mcc bench paper` is told. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mcc.core.config import option
from mcc.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class PaperConfig:
    """Which part of a paper's comparison, where its inputs are, and where results go.

    Raises:
        UsageError: a number makes no sense.
    """

    models: str | None = option(None, "folder of pretrained models: minilm-bert, smollm2-135m")
    data: str | None = option(None, "folder of data sets: mrpc, wikitext2")
    out: str = option("benchmarks/results", "folder for tables and plots")
    work: str | None = option(None, "folder for runs; finished ones are kept there and not run again [OUT/work]")
    size: Literal["quick", "normal", "full"] = option(
        "normal", "quick: minutes, to see that all works; normal: about a quarter of an hour on 2 cores; full: hours"
    )
    steps: int | None = option(None, "optimizer steps of every run [the size's]")
    only: tuple[str, ...] = option((), "settings to run or to show (repeatable) [all]", metavar="SETTING")
    limit: float = option(1800.0, "seconds after which a run is ended and counts as failed")
    links: bool = option(True, "time steps on links of several rates, too, where this machine can lay them out")
    rates: str | None = option(None, "rates of the links [the paper's]", metavar="RATE,RATE,...")
    timed_steps: int = option(4, "steps timed at each rate")
    link_limit: float = option(120.0, "seconds after which a rate is left, however many steps it has had")
    seed: int = option(1234, "seed of every run")

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"--steps {self.steps} must be at least 1")
        if self.limit <= 0 or self.timed_steps < 1 or self.seed < 0:
            raise UsageError(f"--limit {self.limit:g}, --timed-steps {self.timed_steps}, --seed {self.seed}: too small")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a paper's inputs lie, and a folder for what is made of them."""

    models: Path | None
    data: Path | None
    work: Path

    def model(self, name: str) -> Path:
        """The folder of a pretrained model.

        Raises:
            UsageError: it was not said where models are, or this one is not there.
        """
        return _within(self.models, name, "--models", "folder with a folder for each model")

    def data_set(self, name: str) -> Path:
        """The folder of a data set.

        Raises:
            UsageError: it was not said where data sets are, or this one is not there.
        """
        return _within(self.data, name, "--data", "folder with a folder for each data set")

    def public(self, word: str) -> str:
        """`word` with MODELS, DATA and WORK in place of this machine's folders."""
        for name, folder in (("MODELS", self.models), ("DATA", self.data), ("WORK", self.work)):
            if folder is not None:
                word = word.replace(str(folder), name)
        return word


def _within(folder: Path | None, name: str, flag: str, what: str) -> Path:
    if folder is None:
        raise UsageError(f"this comparison needs {name}", f"{flag} DIR: {what}, one of them {name}")
    if not (folder / name).is_dir():
        raise UsageError(f"{flag} {folder} has no folder {name}", f"{flag} DIR: {what}, one of them {name}")
    return folder / name
