"""What `mcc bench network` measures."""

from __future__ import annotations

from dataclasses import dataclass

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.train.network.links import Rate

_AXES = ("tp", "pp", "dp", "cp")
DENSE = "dense"
# The first steps after a change of the links' rate are not counted: the change falls into one of them.
SETTLING = 2


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Rates, layout, and how long to measure.

    Args:
        compress: for each compressed run its `--compress` values, with spaces between them.

    Raises:
        UsageError: a value makes no sense.
    """

    rates: tuple[str, ...] = option(("1gbit", "100mbit"), "speeds of the links")
    layout: str = option("pp=2", "ranks of each axis, such as pp=4 or tp=2,pp=2")
    compress: tuple[str, ...] = option((), "compressed runs")
    steps: int = option(10, "steps timed at each rate")
    latency_ms: float = option(50.0, "the longest a packet waits in a link's queue before it is dropped; no delay")
    limit_s: float = option(120.0, "seconds after which a rate is left, however many steps it has had")

    def __post_init__(self) -> None:
        self.links()
        self.axes()
        if not 1 <= self.steps <= 10_000:
            raise UsageError(f"--steps {self.steps} is not between 1 and 10000")
        if not 0.1 <= self.latency_ms <= 10_000:
            raise UsageError(f"--latency {self.latency_ms:g} is not between 0.1 and 10000 ms")
        if not 1 <= self.limit_s <= 86_400:
            raise UsageError(f"--limit {self.limit_s:g} is not between 1 and 86400 s")

    def links(self) -> list[Rate]:
        """The rates, fastest first."""
        found = sorted({Rate.parse(rate) for rate in self.rates}, key=lambda rate: -rate.bits_per_s)
        if len({rate.bits_per_s for rate in found}) < len(self.rates):
            raise UsageError(f"--rates {','.join(self.rates)} names a rate twice")
        return found

    def axes(self) -> dict[str, int]:
        """Ranks by axis.

        >>> NetworkConfig(layout="tp=2,pp=2").axes()
        {'tp': 2, 'pp': 2}
        """
        found: dict[str, int] = {}
        for part in self.layout.split(","):
            axis, equals, size = part.strip().partition("=")
            if axis not in _AXES or not equals or not size.isdigit() or axis in found:
                raise UsageError(f"--layout {self.layout!r} is not AXIS=RANKS,...", f"axes: {', '.join(_AXES)}")
            found[axis] = int(size)
        if self._product(found) < 2:
            raise UsageError(f"--layout {self.layout} has one rank: nothing crosses a link", "e.g. --layout pp=2")
        return found

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self._product(self.axes())

    @property
    def least_steps(self) -> int:
        """Steps that a run needs to be timed unshaped and at every rate."""
        return (len(self.rates) + 1) * (self.steps + SETTLING)

    @staticmethod
    def _product(axes: dict[str, int]) -> int:
        total = 1
        for size in axes.values():
            total *= size
        return total
