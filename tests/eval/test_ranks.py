"""Scores are the same whatever the layout; a rank that fails ends the job and says why."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcc.ckpt.convert import convert
from mcc.ckpt.source import Layout
from mcc.core.errors import MccError, UsageError
from mcc.core.events import Reporter
from mcc.eval.launch import on_ranks
from mcc.eval.loading import load
from mcc.eval.perplexity import perplexity
from mcc.eval.scorer import Scorer, Span

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, hf_model: Any, tokenizer_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    hf_model.save_pretrained(folder)
    shutil.copy(tokenizer_file, folder / "tokenizer.json")
    return folder


@pytest.fixture(autouse=True)
def _fewer_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield


def scores(
    checkpoint: str, texts: list[str], batch_tokens: int, layout: Layout, reporter: Reporter
) -> tuple[list[tuple[float, bool]], list[int], int]:
    """Of each text the second half, the token that follows it, and how much of the model rank 0 has."""
    loaded = load(checkpoint, layout=layout)
    with loaded.leading():
        scorer = Scorer(loaded.model, batch_tokens, loaded.place)
        ids = [loaded.tokenizer.encode(text)[:40] for text in texts]
        found = dict(scorer.score([Span(tokens[:-1], tokens[len(tokens) // 2 :]) for tokens in ids]))
        held = sum(parameter.numel() for parameter in loaded.model.parameters())
        return [(s.log_likelihood, s.is_greedy) for _, s in sorted(found.items())], scorer.next_tokens(ids), held


def fails(how: str, layout: Layout, reporter: Reporter) -> None:
    """Rank 1 fails while the others wait for it."""
    import torch.distributed as dist

    from mcc.eval.place import join

    place = join(layout)
    if place.rank == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise (MccError("no more room", "buy some") if how == "told" else KeyError(how))
    dist.barrier(place.control)


@pytest.mark.parametrize(("tp", "pp", "replicas", "native"), [(2, 2, 1, True), (1, 1, 3, False)])
def test_scores_do_not_depend_on_the_layout(
    checkpoint: Path, passages: list[str], tmp_path: Path, tp: int, pp: int, replicas: int, native: bool
) -> None:
    """Also with a vocabulary that needs other padding, and more ranks than batches."""
    alone = on_ranks(scores, checkpoint=str(checkpoint), texts=passages, batch_tokens=200)
    if native:
        convert(checkpoint, tmp_path / "native", "mcc")
        checkpoint = tmp_path / "native"
    layout = Layout(tp=tp, pp=pp)
    found = on_ranks(
        scores,
        nproc=tp * pp * replicas,
        layout=layout,
        checkpoint=str(checkpoint),
        texts=passages,
        batch_tokens=200,
    )
    assert [value for value, _ in found[0]] == pytest.approx([value for value, _ in alone[0]], abs=TOLERANCE)
    assert [greedy for _, greedy in found[0]] == [greedy for _, greedy in alone[0]]
    assert found[1] == alone[1]
    if tp * pp > 1:
        assert found[2] < 0.5 * alone[2]


def test_perplexity_on_ranks(checkpoint: Path, corpus: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(corpus[:3000])
    alone = perplexity(checkpoint, file)
    found = on_ranks(perplexity, nproc=2, layout=Layout(pp=2), checkpoint=checkpoint, file=file)
    assert found.log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-3)
    assert found.scored_tokens == alone.scored_tokens


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("told", r"^rank 1 \(dp 0, pp 0, tp 1\): no more room$"),
        ("killed", r"^rank 1 \(dp 0, pp 0, tp 1\) died: SIGKILL$"),
        ("crashed", r"^rank 1 \(dp 0, pp 0, tp 1\): KeyError: 'crashed'$"),
    ],
)
def test_a_rank_that_fails_ends_the_job(how: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    with pytest.raises(MccError) as caught:
        on_ranks(fails, layout=Layout(tp=2), how=how)
    assert re.match(message, caught.value.what)
    assert time.monotonic() - start < 100
    err = capfd.readouterr().err
    assert ("Traceback" in err and "in fails" in err) == (how == "crashed")


def test_layouts_that_do_not_fit(checkpoint: Path, passages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"checkpoint": str(checkpoint), "texts": passages, "batch_tokens": 200}
    with pytest.raises(UsageError, match=r"--nproc 3 is no multiple of tp x pp = 2 x 1"):
        on_ranks(scores, nproc=3, layout=Layout(tp=2), **asked)
    with pytest.raises(UsageError, match=r"^pp = 3 is more than num_layers = 2"):
        on_ranks(scores, layout=Layout(pp=3), **asked)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(UsageError, match="--nproc 2 inside a launched rank"):
        on_ranks(scores, nproc=2, **asked)
    call: Callable[..., Any] = on_ranks
    with pytest.raises(UsageError, match="1 ranks cannot hold a model cut in tp = 2 x pp = 1"):
        call(scores, layout=Layout(tp=2), **asked)
