"""The line that is shown while a run trains: its loss, how fast it goes, what it sends, how long it will take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_SMOOTH = 0.9  # the part of a past average that stays with each new value


@dataclass
class Meter:
    """A run's speed.

    Args:
        total: steps of the run.
        flops_per_token: of the model, forward and backward.
        peak: floating-point operations a second of all devices together; None where it is not known.

    Attributes:
        step_time_s: a step's duration, recent ones weighted most; None before the first.
    """

    total: int
    flops_per_token: float = 0.0
    peak: float | None = None
    step_time_s: float | None = None

    def update(self, step_time_s: float) -> None:
        """Take note of one step's duration."""
        before = self.step_time_s
        self.step_time_s = step_time_s if before is None else _SMOOTH * before + (1 - _SMOOTH) * step_time_s

    def utilisation(self, tokens_per_s: float) -> float | None:
        """The share of the devices' peak that the model's own operations are (MFU); None where it is not known.

        >>> Meter(total=1, flops_per_token=6e9, peak=1e15).utilisation(50_000.0)
        0.3
        """
        return None if self.peak is None else self.flops_per_token * tokens_per_s / self.peak

    def left_s(self, step: int) -> float:
        """Seconds that the steps after `step` will take."""
        return (self.total - step) * (self.step_time_s or 0.0)

    def line(self, step: int, loss: float, tokens_per_s: float, bytes_per_s: Mapping[str, float]) -> str:
        """All of it in one line.

        >>> meter = Meter(total=1000, step_time_s=2.0)
        >>> meter.line(100, 3.14159, 12345.0, {"dp.grad": 2.5e6})
        'loss 3.142, 12.3k tokens/s, dp.grad 2.5 MB/s, 30:00 left'
        """
        share = self.utilisation(tokens_per_s)
        parts = [f"loss {loss:.3f}", f"{short(tokens_per_s)} tokens/s"]
        if share is not None:
            parts.append(f"MFU {share:.1%}")
        parts += [f"{site} {_bytes(rate)}/s" for site, rate in bytes_per_s.items() if rate]
        if self.step_time_s is not None:
            parts.append(f"{duration(self.left_s(step))} left")
        return ", ".join(parts)


def short(value: float) -> str:
    """A number in three digits.

    >>> [short(v) for v in (7.5, 999, 12345, 2.5e6)]
    ['7.5', '999', '12.3k', '2.5M']
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as minutes, hours, days.

    >>> [duration(s) for s in (59.6, 3599, 7325, 200_000)]
    ['1:00', '59:59', '2:02:05', '2d 07:33:20']
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02d}:{m:02d}:{s:02d}"
    return f"{h}:{m:02d}:{s:02d}" if h else f"{m}:{s:02d}"


def _bytes(value: float) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g} B"
