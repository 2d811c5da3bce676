"""A model cut among ranks writes what it writes whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcc.ckpt.source import Layout
from mcc.core.events import SILENT, Reporter
from mcc.eval.generation.decoding import Decoding
from mcc.eval.generation.generate import complete
from mcc.eval.generation.interactive import interact
from mcc.eval.generation.records import Prompt
from mcc.eval.loading import load
from tests.eval.places import on_places

WAYS = [
    Decoding(max_new_tokens=8),
    Decoding(max_new_tokens=8, temperature=0.7, top_p=0.9, num_samples=2, repetition_penalty=1.2),
    Decoding(max_new_tokens=8, beams=3, num_samples=2),
]


def texts(
    checkpoint: str, prompts: list[str], layout: Layout, reporter: Reporter
) -> tuple[list[list[tuple[list[int], float]]], int, str]:
    """Tokens and log-likelihoods of all ways, how much of the model rank 0 has, and what was streamed."""
    loaded = load(checkpoint, layout=layout)
    parts: list[str] = []
    with loaded.leading():
        given = [Prompt(text) for text in prompts]
        found = [[(one.tokens, one.log_likelihood) for one in complete(loaded, given, way, 100)] for way in WAYS]
        complete(loaded, given[:1], WAYS[0], stream=parts.append)
        return found, sum(parameter.numel() for parameter in loaded.model.parameters()), "".join(parts)


@pytest.mark.parametrize("layout", [Layout(tp=2, pp=2), Layout(dp=2)], ids=["tp2 pp2", "dp2"])
def test_texts_do_not_depend_on_the_layout(hf_folder: Path, passages: list[str], layout: Layout) -> None:
    prompts = [text[:20] for text in passages[:5]]
    arguments: dict[str, Any] = {"checkpoint": str(hf_folder), "prompts": prompts, "reporter": SILENT}
    expected, whole, streamed = texts(layout=Layout(), **arguments)
    cut = Layout(tp=layout.tp, pp=layout.pp)
    ((found, held, again),) = on_places(layout.tp * layout.pp * layout.dp, (texts, {**arguments, "layout": cut}))
    for ours, theirs in zip(found, expected, strict=True):
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
        assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], abs=1e-4)
    assert streamed == again and len(streamed) > len(prompts[0])
    assert held < 0.6 * whole or layout.dp > 1


def talk(checkpoint: str, layout: Layout) -> str:
    """What is written when prompts are asked for; one of them is too long."""
    asked = iter(["The river", "", "long " * 60, "a"])
    parts: list[str] = []
    interact(checkpoint, Decoding(max_new_tokens=4), ask=lambda: next(asked, None), stream=parts.append, layout=layout)
    return "".join(parts)


def test_prompts_are_asked_for_on_ranks(hf_folder: Path) -> None:
    """By the rank that leads, as torchrun starts them."""
    alone = talk(str(hf_folder), Layout())
    assert alone.startswith("The river") and alone.count("\n\n") >= 2
    assert on_places(2, (talk, {"checkpoint": str(hf_folder), "layout": Layout(tp=2)})) == [alone]
