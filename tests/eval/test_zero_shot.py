"""From a task file to a report: the harness's own results on transformers' model, and what is written."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.core.events import Silent
from mcc.eval import zero_shot as module
from mcc.eval.catalogue import entries
from mcc.eval.loading import Loaded
from mcc.eval.quiet import quiet
from mcc.eval.zero_shot import score_entries, zero_shot

Jsonl = Callable[..., Path]


@pytest.fixture
def files(jsonl: Jsonl, passages: list[str]) -> dict[str, Path]:
    halves = [text[: len(text) // 2] for text in passages]
    piqa = [
        {"goal": text[:40], "sol1": text[40:60] + "a", "sol2": text[60:90] + "b", "label": i % 2}
        for i, text in enumerate(passages)
    ]
    return {
        "lambada": jsonl([{"text": text} for text in passages], "lambada.jsonl"),
        "cloze": jsonl([{"context": half, "target": "is"} for half in halves], "cloze.jsonl"),
        "piqa": jsonl(piqa, "piqa.jsonl"),
    }


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"a connection was tried: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE")


@pytest.mark.parametrize(("num_fewshot", "limit"), [(None, None), (1, 7)])
@pytest.mark.usefixtures("no_network")
def test_results_are_those_of_transformers(
    loaded: Loaded, hf_model: Any, hf_tokenizer: Any, files: dict[str, Path], num_fewshot: int, limit: int
) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    ours, _ = score_entries(loaded, entries(list(files), files, num_fewshot), limit, batch_tokens=200)
    theirs = HFLM(pretrained=hf_model, tokenizer=hf_tokenizer, batch_size=4)
    for entry in entries(list(files), files, num_fewshot):
        with quiet():
            expected = evaluate(lm=theirs, task_dict=entry.loaded, limit=limit, bootstrap_iters=1000)
        found = ours.results[entry.name]
        assert found.samples == (limit or 40)
        assert found.num_fewshot == (num_fewshot or 0)
        for metric, score in found.metrics.items():
            table = expected["results"][entry.name]
            assert score.value == pytest.approx(table[f"{metric},none"], rel=1e-5)
            assert score.stderr == pytest.approx(table[f"{metric}_stderr,none"], rel=1e-4)
            assert score.stderr is not None
    assert set(ours.results["piqa"].metrics) == {"acc", "acc_norm"}
    assert 0 < ours.value("piqa") < 1


def test_report_and_samples_are_written(
    loaded: Loaded, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", lambda *_, **__: loaded)
    out = tmp_path / "scores"
    report = zero_shot("tiny", ["piqa", "lambada"], files, limit=5, out=out)
    assert json.loads((out / "results.json").read_text()) == asdict(report)
    rows = [json.loads(line) for line in (out / "samples_lambada.jsonl").read_text().splitlines()]
    assert [row["doc_id"] for row in rows] == [0, 1, 2, 3, 4]
    assert sum(row["acc"] for row in rows) / 5 == report.value("lambada")
    assert rows[0]["arguments"][0][1].startswith(" ")
    run = json.loads((out / "run.json").read_text())
    assert run["config"]["limit"] == 5 and run["seeds"] == {"fewshot": 1234}
    assert {path.name for path in out.iterdir()} == {
        "cache.jsonl",
        "results.json",
        "run.json",
        "samples_piqa.jsonl",
        "samples_lambada.jsonl",
    }


def test_nothing_is_printed_but_progress(
    loaded: Loaded, files: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    from contextlib import contextmanager

    class Counting(Silent):
        done = 0.0

        @contextmanager
        def task(self, label: str, total: float | None = None, unit: str = "") -> Any:
            self.label, self.total = label, total
            yield self

        def advance(self, amount: float = 1.0) -> None:
            Counting.done += amount

    reporter = Counting()
    score_entries(loaded, entries(["lambada"], files), reporter=reporter)
    assert capfd.readouterr() == ("", "")
    assert (reporter.label, reporter.total, Counting.done) == ("score", 40, 40)


def test_wrong_arguments(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="limit = 0"):
        zero_shot("tiny", ["piqa"], files, limit=0)
    with pytest.raises(UsageError, match="num_fewshot = -1"):
        zero_shot("tiny", ["piqa"], files, num_fewshot=-1)
    with pytest.raises(MccError):  # no such checkpoint
        zero_shot(tmp_path / "none", ["piqa"], {"piqa": files["piqa"]})
