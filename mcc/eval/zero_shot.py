"""Zero-shot and few-shot scores of a checkpoint, by lm-evaluation-harness: its tasks, metrics, standard errors."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mcc.ckpt.source import Layout
from mcc.core import provenance
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import atomic_path, write_text
from mcc.eval.answers import FILE, Answers
from mcc.eval.catalogue import FEWSHOT_SEED, Entry, entries
from mcc.eval.loading import Codecs, Loaded, is_leader, load
from mcc.eval.quiet import quiet
from mcc.eval.scorer import DEFAULT_BATCH_TOKENS

# Draws for the standard error of metrics without a formula for it (perplexity): within 3 % of the harness's 100,000.
BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score, and its standard error where there is one."""

    value: float
    stderr: float | None
    higher_is_better: bool | None = None


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """One task's scores.

    Args:
        metrics: the harness's metric name -> score.
        samples: documents scored.
        num_fewshot: examples before each.
        source: the local file, None when the harness's own data was used.
    """

    metrics: dict[str, Metric]
    samples: int
    num_fewshot: int
    source: str | None


@dataclass(frozen=True, kw_only=True)
class ZeroShotReport:
    """Scores by task; `seconds` is wall-clock time by task as asked for (a group of tasks runs as one)."""

    checkpoint: str
    results: dict[str, TaskScore]
    seconds: dict[str, float]

    def value(self, task: str, metric: str = "acc") -> float:
        """The score of `task` by `metric`."""
        return self.results[task].metrics[metric].value


def zero_shot(
    checkpoint: str | Path,
    tasks: Sequence[str],
    task_files: Mapping[str, str | Path] | None = None,
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    reporter: Reporter = SILENT,
    layout: Layout | None = None,
    codecs: Codecs | None = None,
    trained: bool = True,
) -> ZeroShotReport:
    """Score `checkpoint` (any format) on `tasks`. Among several ranks only the first returns: see `Loaded.leading`.

    Args:
        checkpoint: where the model is.
        tasks: names; those in `task_files` read a local JSONL file, the others are the harness's own and download.
        task_files: task -> file.
        num_fewshot: examples before each document [the task's own number, or none].
        limit: score only the first documents of each task.
        batch_tokens: most tokens of a forward pass; changes speed and memory, no score.
        tokenizer: its file [the one beside the checkpoint].
        device: as torch names it [the GPU where there is one].
        out: folder for results.json, run.json and samples_TASK.jsonl.
        reporter: receives progress.
        layout: how the model is cut among the ranks that a launcher started; as many replicas as they allow.
        codecs, trained: see `mcc.eval.loading.load`.

    Raises:
        UsageError: an unknown task, or a limit or number of examples that makes no sense.
        MccError: the checkpoint, its tokenizer or a task's data cannot be used.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit} must be at least 1")
    if num_fewshot is not None and num_fewshot < 0:
        raise UsageError(f"num_fewshot = {num_fewshot} must not be negative")
    files = {name: Path(file) for name, file in (task_files or {}).items()}
    # Tasks first: a wrong name or a malformed file is told before a large model is read.
    chosen = entries(tasks, files, num_fewshot, reporter) if is_leader() else []
    loaded = load(checkpoint, tokenizer, device, reporter, layout, codecs=codecs, trained=trained)
    with loaded.leading():
        report, samples = score_entries(loaded, chosen, limit, batch_tokens, reporter, out)
    if out is not None:
        settings = {
            "checkpoint": checkpoint,
            "tasks": list(tasks),
            "task_files": files,
            "num_fewshot": num_fewshot,
            "limit": limit,
            "batch_tokens": batch_tokens,
            "tokenizer": loaded.tokenizer.file,
            "device": str(loaded.place.device),
            "codecs": list(loaded.coding),
            "layout": asdict(loaded.place.layout),
        }
        write_results(Path(out), report, samples, settings)
    return report


def score_entries(
    loaded: Loaded,
    chosen: Sequence[Entry],
    limit: int | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    reporter: Reporter = SILENT,
    kept: str | Path | None = None,
) -> tuple[ZeroShotReport, dict[str, list[dict[str, Any]]]]:
    """Score a model in memory: the report, and the harness's samples by task.

    Answers to requests are kept in `cache.jsonl` of the folder `kept`, and not asked for again.
    """
    from lm_eval.evaluator import evaluate

    from mcc.eval.harness import MccLM

    lm = MccLM(loaded.model, loaded.tokenizer, batch_tokens, reporter, loaded.place, alike=bool(loaded.coding))
    if kept is not None:
        with reporter.task("look for answers of this model"):
            lm.answers = Answers(Path(kept) / FILE, " ".join([lm.scorer.content(), *loaded.coding]))
    results: dict[str, TaskScore] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    seconds: dict[str, float] = {}
    try:
        for entry in chosen:
            start = time.perf_counter()
            with quiet():
                found = evaluate(
                    lm=lm, task_dict=entry.loaded, limit=limit, bootstrap_iters=BOOTSTRAP_DRAWS, log_samples=True
                )
            seconds[entry.name] = time.perf_counter() - start
            results |= _scores(found, entry)
            samples |= found["samples"]
    finally:
        lm.answers.close()
    return ZeroShotReport(checkpoint=str(loaded.checkpoint), results=results, seconds=seconds), samples


def write_results(
    out: Path, report: ZeroShotReport, samples: Mapping[str, Sequence[Mapping[str, Any]]], settings: Mapping[str, Any]
) -> None:
    """`results.json`, `samples_TASK.jsonl` and `run.json` (settings, versions, seeds) in the folder `out`."""
    for name, rows in samples.items():
        with atomic_path(out / f"samples_{name}.jsonl") as path, path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    write_text(out / "results.json", json.dumps(asdict(report), indent=2) + "\n")
    provenance.write(out, settings, {"fewshot": FEWSHOT_SEED})


def _scores(found: Mapping[str, Any], entry: Entry) -> dict[str, TaskScore]:
    """The harness's `{"acc,none": 0.5, "acc_stderr,none": 0.1}` as metrics; groups stand beside their tasks."""
    scores = {}
    tables = {**found["results"], **found.get("groups", {})}
    for name, table in tables.items():
        metrics = {}
        higher = found.get("higher_is_better", {}).get(name, {})
        for key, value in table.items():
            metric, comma, by = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = table.get(f"{metric}_stderr,{by}")
            metrics[metric if by == "none" else key] = Metric(
                value=float(value),
                stderr=float(error) if isinstance(error, (int, float)) else None,
                higher_is_better=higher.get(metric),
            )
        if not metrics:  # a group that only gathers its tasks
            continue
        counts = found.get("n-samples", {}).get(name, {})
        scores[name] = TaskScore(
            metrics=metrics,
            samples=int(counts.get("effective", table.get("sample_len", 0))),
            num_fewshot=int(found.get("n-shot", {}).get(name) or 0),
            source=None if entry.source is None else str(entry.source),
        )
    return scores
