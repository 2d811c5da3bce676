"""Where and when a site compresses: `when=`, `layers=` and `stages=` of `--compress`.

when=epilogue                       dense but for a step's last backward sends (Optimus-CC, arXiv 2301.09830)
when=after:100   when=epoch:1       dense in the first 100 steps; dense in the first epoch (AQ-SGD, arXiv 2206.01299)
layers=12-   layers=0-5+9           some layers alone (MCBench, arXiv 2301.02654: not the first ones)
stages=-75%                         the first three quarters of the pipeline's stages (Optimus-CC)
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from mcc.core.errors import UsageError

# Sites whose traffic is one layer's, one boundary's or one parameter's.
LAYERED = ("tp.forward", "tp.backward", "pp.forward", "pp.backward", "cp.kv", "dp.grad")

KEYS = ("when", "layers", "stages")
_PART = re.compile(r"(?P<first>\d+%?)?(?P<dash>-)?(?P<last>\d+%?)?")


@dataclass(frozen=True, kw_only=True)
class When:
    """The steps and micro-batches that are compressed.

    Attributes:
        kind: `always`; `epilogue`: a step's backward sends at or after the stage's last forward pass; `after`: steps
            from `start` on; `epoch`: those of epoch `start`, counted from 0, and later ones.
    """

    kind: Literal["always", "epilogue", "after", "epoch"] = "always"
    start: int = 0

    @classmethod
    def parse(cls, text: str) -> When:
        """`always`, `epilogue`, `after:STEP` or `epoch:N`.

        Raises:
            UsageError: it is none of them.
        """
        kind, colon, number = text.partition(":")
        if not colon and kind in ("always", "epilogue"):
            return cls(kind=kind)  # type: ignore[arg-type]
        if kind in ("after", "epoch") and number.isdigit():
            return cls(kind=kind, start=int(number))  # type: ignore[arg-type]
        raise UsageError(f"when={text} is not always, epilogue, after:STEP or epoch:N")

    def reached(self, step: int, epoch: int) -> bool:
        """Whether step `step` of epoch `epoch`, both counted from 0, is compressed, all of it or its epilogue.

        >>> When.parse("after:10").reached(9, 0), When.parse("epoch:1").reached(9, 1)
        (False, True)
        """
        return {"after": step, "epoch": epoch}.get(self.kind, self.start) >= self.start

    def __str__(self) -> str:
        return f"{self.kind}:{self.start}" if self.kind in ("after", "epoch") else self.kind


@dataclass(frozen=True)
class Ranges:
    """Some of n things in a row, such as layers: numbers from 0 and ranges of them, joined by `+`.

    A range's ends belong to it, and an end that is left out is that of the row. With `%` an end is a share of the row:
    `-50%` and `50%-` are its two halves.
    """

    text: str

    def __post_init__(self) -> None:
        for part in self.text.split("+"):
            found = _PART.fullmatch(part)
            if not part or part == "-" or not found or (part.endswith("%") and not found["dash"]):
                raise UsageError(
                    f"{self.text} is no list of ranges", "numbers from 0 and ranges, such as 12-, 0-5, 3+7-9 or 50%-"
                )

    def among(self, count: int) -> frozenset[int]:
        """Those of 0 .. count-1 that are meant.

        Raises:
            UsageError: a number is not among them, a share is above 100%, or a range has nothing in it.

        >>> sorted(Ranges("1+3-").among(6)), sorted(Ranges("-50%").among(5))
        ([1, 3, 4, 5], [0, 1, 2])
        """
        chosen: set[int] = set()
        for part in self.text.split("+"):
            found = _PART.fullmatch(part)
            assert found is not None
            first, last = found["first"], found["last"] if found["dash"] else found["first"]
            start = 0 if first is None else _place(first, count)
            end = count if last is None else _place(last, count) + (not last.endswith("%"))
            if end > count or start >= count:
                raise UsageError(f"{part} is not within 0 to {count - 1}")
            if start >= end:
                raise UsageError(f"{part} has nothing in it: there are {count}")
            chosen.update(range(start, end))
        return frozenset(chosen)


def _place(end: str, count: int) -> int:
    """The first number at or after an end."""
    return math.ceil(int(end[:-1]) * count / 100) if end.endswith("%") else int(end)


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Where and when a site compresses; all of it always, unless something is given."""

    when: When = When()
    layers: Ranges | None = None
    stages: Ranges | None = None

    @classmethod
    def take(cls, site: str, values: dict[str, str]) -> Scope:
        """The scope that `values` give, which lose their keys `KEYS`.

        Raises:
            UsageError: a value is not of its form, or makes no sense at `site`.
        """
        when = When.parse(values.pop("when", "always"))
        if when.kind == "epilogue" and site != "pp.backward":
            raise UsageError(
                f"when=epilogue makes no sense at {site}: a step's last sends are known of gradients between stages",
                "pp.backward alone has an epilogue",
            )
        if when.kind == "after" and "warmup" in values:
            raise UsageError("warmup= and when=after: both say when compression begins", "give one of them")
        ranges = {}
        for key in ("layers", "stages"):
            text = values.pop(key, None)
            if text is not None and site not in LAYERED:
                raise UsageError(f"{key}= makes no sense at {site}: its traffic is not of single {key}")
            ranges[key] = None if text is None else Ranges(text)
        return cls(when=when, **ranges)

    def covers(self, layer: int | None, stage: int, layers: int, stages: int) -> bool:
        """Whether what belongs to `layer` (None: to no layer) of `stage` is compressed.

        Args:
            layers, stages: how many the model has.
        """
        if self.layers is not None and layer not in self.layers.among(layers):
            return False
        return self.stages is None or stage in self.stages.among(stages)

    def wrappers(self) -> Mapping[str, str]:
        """What was given, by key."""
        given = {"when": None if self.when == When() else str(self.when)}
        given |= {key: getattr(self, key) and getattr(self, key).text for key in ("layers", "stages")}
        return {key: value for key, value in given.items() if value is not None}


EVERYWHERE = Scope()


def some(numbers: Collection[int]) -> str:
    """Numbers in words, for messages.

    >>> some([2, 3, 4]), some([1, 3]), some([])
    ('2 to 4', '1, 3', 'none')
    """
    found = sorted(numbers)
    if len(found) > 2 and found[-1] - found[0] == len(found) - 1:
        return f"{found[0]} to {found[-1]}"
    return ", ".join(map(str, found)) or "none"
