"""What a site asks of every codec there, whichever it is, and what it may carry."""

from __future__ import annotations

from typing import Any

from mcc.core.errors import UsageError
from mcc.train.compress.codec import Codec
from mcc.train.compress.sparse import SparseOptions

# Sites that may carry one thing or another: `of=`, the first unless told.
CARRIED = {"dp.grad": ("gradient", "momentum"), "zero.weights": ("weights", "difference")}

# Sites whose tensors must be coded without memory, and why.
_FORGETFUL = {
    "cp.kv": "keys and values are others every time, and travel again in the backward pass",
    "zero.weights": "of=difference sends again what was lost before",
}

# Sites that carry rows of many parameters, one after the other.
_FLAT = ("zero.grads", "zero.weights")


def chosen(text: str, site: str, of: str) -> str:
    """What `site` carries where `of` is asked for, or by default; "" where there is no choice.

    Raises:
        UsageError: there is no such choice.
    """
    choices = CARRIED.get(site, ())
    if of and of not in choices:
        known = f"of={' or of='.join(choices)}" if choices else f"{site} carries one thing alone"
        raise UsageError(f"--compress {text!r}: of={of} is not known there", known)
    return of or next(iter(choices), "")


def site_refusal(
    site: str, name: str, codec: type[Codec], options: Any, feedback: bool = False, of: str = ""
) -> str | None:
    """Why a codec with these options makes no sense at `site`, or None when it does."""
    if site in _FLAT and codec.matrixwise:
        return f"{name} approximates matrices, but {site} carries rows of many parameters in one flat piece"
    if site == "zero.weights" and of == "difference" and (grows := codec.feedback_refusal(options)):
        return f"of=difference sends again what was lost, as feedback does: {grows}"
    if site == "zero.weights" and of != "difference" and issubclass(codec.Options, SparseOptions):
        return f"weights that {name} leaves out would be zero: of=difference"
    why = _FORGETFUL.get(site)
    if why is not None and feedback:
        return f"feedback adds what was lost of other tensors: at {site} there is no place for it, {why}"
    if why is not None and codec.remembers(options):
        return f"{name} would remember what it sent before: at {site} there is no place for it, {why}"
    return None
