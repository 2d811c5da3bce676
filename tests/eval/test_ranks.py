"""Scores are the same whatever the layout; a rank that fails ends the job and says why."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcc.ckpt.convert import convert
from mcc.ckpt.format import WriteOptions
from mcc.ckpt.source import Layout
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.eval import launch
from mcc.eval.launch import on_ranks
from mcc.eval.loading import load
from mcc.eval.perplexity import perplexity
from mcc.eval.place import Place
from mcc.eval.scorer import Scorer, Span
from mcc.models.base.config import ModelConfig
from tests.eval.places import on_places

TOLERANCE = 1e-4


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


def fails(layout: Layout, reporter: Reporter) -> None:
    """Rank 1 fails while the others wait for it."""
    import torch.distributed as dist

    from mcc.eval.place import join

    place = join(layout)
    if place.rank == 1:
        raise KeyError("crashed")
    dist.barrier(place.control)


@pytest.mark.parametrize(("tp", "pp", "replicas", "native"), [(2, 2, 1, True), (1, 1, 2, False)])
def test_scores_do_not_depend_on_the_layout(
    hf_folder: Path, passages: list[str], tmp_path: Path, tp: int, pp: int, replicas: int, native: bool
) -> None:
    """Also with a vocabulary that needs other padding, and more ranks than batches."""
    asked: dict[str, Any] = {"texts": passages, "batch_tokens": 200, "reporter": SILENT}
    alone = scores(checkpoint=str(hf_folder), layout=Layout(), **asked)
    checkpoint = hf_folder
    if native:
        convert(hf_folder, tmp_path / "native", "mcc")
        checkpoint = tmp_path / "native"
    asked |= {"checkpoint": str(checkpoint), "layout": Layout(tp=tp, pp=pp)}
    few = {**asked, "texts": passages[:1]}
    found, one = on_places(tp * pp * replicas, (scores, asked), (scores, few))
    assert [value for value, _ in found[0]] == pytest.approx([value for value, _ in alone[0]], abs=TOLERANCE)
    assert [greedy for _, greedy in found[0]] == [greedy for _, greedy in alone[0]]
    assert found[1] == alone[1]
    assert one[0][0][0] == pytest.approx(alone[0][0][0], abs=TOLERANCE)
    if tp * pp > 1:
        assert found[2] < 0.5 * alone[2]


def test_scores_do_not_depend_on_the_form(hf_folder: Path, passages: list[str], tmp_path: Path) -> None:
    """A Megatron-LM directory, a native checkpoint of several ranks and the Hugging Face folder, on one process."""
    asked: dict[str, Any] = {"texts": passages, "batch_tokens": 200, "reporter": SILENT, "layout": Layout()}
    expected = scores(checkpoint=str(hf_folder), **asked)
    for to in ("megatron", "mcc"):
        convert(hf_folder, tmp_path / to, to, WriteOptions(tp=2, pp=2))
        assert scores(checkpoint=str(tmp_path / to), **asked) == expected


def test_perplexity_on_ranks(hf_folder: Path, corpus: str, tmp_path: Path) -> None:
    """On ranks that the package starts itself."""
    file = tmp_path / "text.txt"
    file.write_text(corpus[:3000])
    alone = perplexity(hf_folder, file)
    found = on_ranks(perplexity, nproc=2, layout=Layout(pp=2), checkpoint=hf_folder, file=file)
    assert found.log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-3)
    assert found.scored_tokens == alone.scored_tokens


def test_a_rank_that_crashes_ends_the_job(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    with pytest.raises(MccError, match=r"^rank 1 \(dp 0, pp 0, tp 1\): KeyError: 'crashed'"):
        on_ranks(fails, layout=Layout(tp=2))
    assert time.monotonic() - start < 100
    err = capfd.readouterr().err
    assert err.count("Traceback (") == 1 and "in fails" in err


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ("exit 1", r"^rank 1 \(dp 0, pp 0, tp 1\): no more room$"),
        ("kill -KILL $$", r"^rank 1 \(dp 0, pp 0, tp 1\) died: SIGKILL$"),
    ],
    ids=["told", "killed"],
)
def test_the_rank_that_failed_first_is_named(ends: str, message: str, tmp_path: Path) -> None:
    """Rank 0 fails a moment earlier, as it lost rank 1."""
    accounts = [("lost a peer", False), ("no more room", True)]
    for rank, (what, cause) in enumerate(accounts if ends == "exit 1" else accounts[:1]):
        account = {"what": what, "hint": None, "exit_code": 1, "cause": cause, "trace": "", "time": float(rank)}
        (tmp_path / f"failed_{rank}.json").write_text(json.dumps(account))
    ranks = [subprocess.Popen(["sh", "-c", how]) for how in ("exit 1", ends)]
    with pytest.raises(MccError) as caught:
        launch._watch(ranks, tmp_path, Layout(tp=2))
    assert re.match(message, caught.value.what)


def test_a_wish_that_no_rank_can_fulfil_blames_none(tmp_path: Path) -> None:
    account = {"what": "pp = 3 is more than num_layers = 2", "hint": None, "exit_code": 2, "cause": True, "trace": ""}
    for rank in (1, 2):
        (tmp_path / f"failed_{rank}.json").write_text(json.dumps({**account, "time": float(rank)}))
    ranks = [subprocess.Popen(["sh", "-c", how]) for how in ("sleep 9", "exit 2", "exit 2")]
    with pytest.raises(UsageError, match=r"^pp = 3 is more"):
        launch._watch(ranks, tmp_path, Layout(pp=3))


def test_layouts_that_do_not_fit(
    hf_folder: Path, config: ModelConfig, passages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"checkpoint": str(hf_folder), "texts": passages, "batch_tokens": 200}
    with pytest.raises(UsageError, match=r"--nproc 3 is no multiple of tp x pp = 2 x 1"):
        on_ranks(scores, nproc=3, layout=Layout(tp=2), **asked)
    with pytest.raises(UsageError, match=r"^pp = 3 is more than num_layers = 2"):
        Place(layout=Layout(pp=3)).layers(config)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(UsageError, match="--nproc 2 inside a launched rank"):
        on_ranks(scores, nproc=2, **asked)
    call: Callable[..., Any] = on_ranks
    with pytest.raises(UsageError, match="1 ranks cannot hold a model cut in tp = 2 x pp = 1"):
        call(scores, layout=Layout(tp=2), **asked)
