"""A model cut among ranks writes what it writes whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcc.ckpt.source import Layout
from mcc.core.events import Reporter
from mcc.eval.generation.decoding import Decoding
from mcc.eval.generation.generate import complete
from mcc.eval.generation.records import Prompt
from mcc.eval.launch import on_ranks
from mcc.eval.loading import load

WAYS = [
    Decoding(max_new_tokens=8),
    Decoding(max_new_tokens=8, temperature=0.7, top_p=0.9, num_samples=2, repetition_penalty=1.2),
    Decoding(max_new_tokens=8, beams=3, num_samples=2),
]


@pytest.fixture(autouse=True)
def _fewer_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield


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
def test_texts_do_not_depend_on_the_layout(
    hf_model: Any, tokenizer_file: Path, passages: list[str], tmp_path: Path, layout: Layout
) -> None:
    hf_model.save_pretrained(tmp_path)
    shutil.copy(tokenizer_file, tmp_path / "tokenizer.json")
    prompts = [text[:20] for text in passages[:5]]
    expected, whole, streamed = on_ranks(texts, checkpoint=str(tmp_path), prompts=prompts)
    nproc = layout.tp * layout.pp * layout.dp
    arguments: dict[str, Any] = {"checkpoint": str(tmp_path), "prompts": prompts}
    found, held, again = on_ranks(texts, nproc=nproc, layout=Layout(tp=layout.tp, pp=layout.pp), **arguments)
    for ours, theirs in zip(found, expected, strict=True):
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
        assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], abs=1e-4)
    assert streamed == again and len(streamed) > len(prompts[0])
    assert held < 0.6 * whole or layout.dp > 1
