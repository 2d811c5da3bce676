"""Errors and events."""

from __future__ import annotations

import pickle

from mcc.core.errors import MccError, UsageError, nearest, unknown
from mcc.core.events import SILENT, track


def test_an_error_survives_its_way_from_a_worker_process() -> None:
    for kind in (MccError, UsageError):
        back = pickle.loads(pickle.dumps(kind("what", "hint")))
        assert type(back) is kind
        assert (back.what, back.hint, back.exit_code) == ("what", "hint", kind.exit_code)
    assert (MccError.exit_code, UsageError.exit_code) == (1, 2)
    assert str(MccError("what", "hint")) == "what (hint: hint)"
    assert str(MccError("what")) == "what"


def test_names() -> None:
    assert nearest("quantise", ["none", "quantize"]) == "quantize"
    assert nearest("zzz", ["none", "quantize"]) is None
    error = unknown("codec", "zzz", {"b", "a"})
    assert (error.what, error.hint) == ("unknown codec 'zzz'", "known: a, b")


def test_track_reports_each_item_after_it_was_used() -> None:
    events: list[object] = []

    class Spy(type(SILENT)):  # type: ignore[misc]
        def task(self, label: str, total: float | None = None, unit: str = ""):  # type: ignore[no-untyped-def]
            events.append((label, total, unit))
            return super().task(label, total, unit)

    assert list(track(iter("ab"), Spy(), "letters", total=2, unit="x")) == ["a", "b"]
    assert events == [("letters", 2, "x")]
