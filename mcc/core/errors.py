"""The one kind of error a user sees, printed in one place by `mcc.cli`. `assert` is for our own bugs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MccError(Exception):
    """Something that the user can act on.

    Args:
        what: one line: what is wrong and where (file, line, tensor, rank).
        hint: one line: what to do about it, or None.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send errors to their parent by pickle: keep the hint.
        return (type(self), (self.what, self.hint))

    def __str__(self) -> str:
        return self.what if self.hint is None else f"{self.what} (hint: {self.hint})"


class UsageError(MccError):
    """The command, an option or a configuration is wrong: nothing was started (exit code 2)."""

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None when nothing is close.

    >>> nearest("topkk", ["topk", "quantize"])
    'topk'
    """
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest one that does.

    >>> print(unknown("codec", "topkk", ["none", "topk"]).what)
    unknown codec 'topkk'; did you mean 'topk'?
    """
    names = sorted(known)
    close = nearest(name, names)
    guess = f"; did you mean {close!r}?" if close else ""
    return UsageError(f"unknown {kind} {name!r}{guess}", f"known: {', '.join(names)}")
