"""The quickstart from the corpus to the table, the summary and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcc.core import provenance
from mcc.core.config import plain
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import remove, write_text
from mcc.quickstart.config import COMPRESS, QuickstartConfig, training
from mcc.quickstart.prepare import Prepared, prepare
from mcc.quickstart.report import write_report

RUNS: Mapping[str, tuple[str, ...]] = {"dense": (), "compressed": COMPRESS}
_OURS = ("data", *RUNS, *(f"{run}-{form}" for run in RUNS for form in ("merged", "hf")))
_MARK = "run.json"
_WELL_BELOW = 0.9  # of the unigram entropy
_NEAR_DENSE = 1.03
_LEAST_RATIO = 4.0
_LOGITS_TOLERANCE = 1e-4
_OVERLAP = 128  # windows side by side: four times quicker than the default, a little above it


@dataclass(frozen=True)
class Result:
    """The summary as written to `summary.json`, and the files to look at."""

    summary: dict[str, Any]
    report: Path

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(self.summary["checks"].values())


def quickstart(
    config: QuickstartConfig, reporter: Reporter = SILENT, make_reporter: Callable[[], Reporter] | None = None
) -> Result:
    """Run the whole job in `config.out`, replacing an earlier quickstart there.

    Args:
        config: what to do.
        reporter: receives the progress of everything but the training ranks.
        make_reporter: makes the reporter of the training's first rank; a module-level function.

    Raises:
        UsageError: the folder holds something else.
        MccError: the corpus is missing, malformed or too small, or a rank died.
    """
    started = time.perf_counter()
    _clear(config.folder)
    provenance.write(config.folder, plain(config), {"seed": config.seed}, _MARK)
    prepared = prepare(config, reporter)
    for run, compress in RUNS.items():
        _train(config, prepared, run, compress, reporter, make_reporter)
    runs, curves, differences = {}, {}, []
    for run in RUNS:
        runs[run], curves[run], difference = _score(config.folder, run, prepared, reporter)
        differences.append(difference)
    summary = {
        "docs_in": prepared.docs_in,
        "docs_kept": prepared.docs_kept,
        "tokens": prepared.tokens,
        "unigram_entropy": prepared.unigram_entropy,
        "hf_logits_max_abs_diff": max(differences),
        "steps": config.steps,
        "runs": runs,
        "compress": list(COMPRESS),
        "checks": _checks(runs, prepared.unigram_entropy, max(differences)),
        "seconds": round(time.perf_counter() - started, 1),
    }
    report = config.folder / "report.html"
    write_report(report, summary, curves)
    write_text(config.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return Result(summary, report)


def ratio(dense: Mapping[str, int], compressed: Mapping[str, int], sites: list[str]) -> float:
    """How many times fewer bytes the compressed run sent at `sites`.

    >>> ratio({"pp.forward": 100, "dp.grad": 300}, {"pp.forward": 20, "dp.grad": 80}, ["pp.forward", "dp.grad"])
    4.0
    """
    return sum(dense[site] for site in sites) / max(1, sum(compressed[site] for site in sites))


def compressed_sites() -> list[str]:
    """The sites that the compressed run compresses."""
    return [text.partition("=")[0] for text in COMPRESS]


def _clear(folder: Path) -> None:
    """Empty an earlier quickstart's folder; anything else is left alone."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARK).exists())):
        raise UsageError(f"{folder} exists and is no quickstart's folder", "choose another --out")
    for name in (*_OURS, "summary.json", "report.html"):
        remove(folder / name)


def _train(
    config: QuickstartConfig,
    prepared: Prepared,
    run: str,
    compress: tuple[str, ...],
    reporter: Reporter,
    make_reporter: Callable[[], Reporter] | None,
) -> None:
    from mcc.train.config import ParallelConfig
    from mcc.train.launch import run as train

    settings = training(config, run, prepared.train, prepared.held_out, compress)
    parallel: ParallelConfig = settings.parallel
    ranks = parallel.tp * parallel.pp * (parallel.dp or 1)
    reporter.note(f"train {run}: tp {parallel.tp} x pp {parallel.pp} x dp {parallel.dp} = {ranks} ranks")
    train(settings, nproc=ranks, reporter=make_reporter)


class _AllNotes:
    """Another reporter, which takes warnings as notes."""

    def __init__(self, inner: Reporter) -> None:
        self.task, self.note, self.warn = inner.task, inner.note, inner.note


def _score(
    folder: Path, run: str, prepared: Prepared, reporter: Reporter
) -> tuple[dict[str, Any], dict[str, list[float]], float]:
    """Merge, convert, compare and score one run: its part of the summary, its curve, and the logits' difference."""
    from mcc.ckpt.convert import convert, merge
    from mcc.ckpt.verify import verify
    from mcc.eval.perplexity import perplexity
    from mcc.eval.zero_shot import zero_shot
    from mcc.train import metrics

    merged, hf = folder / f"{run}-merged", folder / f"{run}-hf"
    merge(folder / run, merged)
    convert(merged, hf, "hf")
    compared = verify(merged, hf)
    reporter.note(f"{run}: merged, converted; transformers' logits differ by at most {compared.max_abs_diff:.1e}")
    # Its passages are longer than what so small a model sees: its end is what counts, and no surprise.
    scoring = _AllNotes(reporter)
    zero = zero_shot(merged, ["lambada"], {"lambada": prepared.cloze}, out=folder / run / "zero-shot", reporter=scoring)
    words = perplexity(merged, prepared.held_out_text, overlap=_OVERLAP, reporter=reporter)
    lines = metrics.read(folder / run)
    steps = [line for line in lines if "loss" in line]
    held_out = [line for line in lines if "heldout_loss" in line]
    found = metrics.summary(folder / run)
    part = {
        "final_train_loss": found["final_train_loss"],
        "heldout_loss": found["heldout_loss"],
        "word_perplexity": words.word_perplexity,
        "cloze_accuracy": zero.value("lambada"),
        "tokens_per_s": found["tokens_per_s"],
        "wire_bytes": _total(steps),
    }
    curve = {
        "step": [line["step"] for line in steps],
        "loss": [line["loss"] for line in steps],
        "heldout_step": [line["step"] for line in held_out],
        "heldout_loss": [line["heldout_loss"] for line in held_out],
    }
    reporter.note(f"{run}: held-out loss {part['heldout_loss']:.3f}, cloze accuracy {part['cloze_accuracy']:.1%}")
    return part, curve, compared.max_abs_diff


def _total(steps: list[dict[str, Any]]) -> dict[str, int]:
    """Bytes by site over the whole run."""
    sites = sorted({site for line in steps for site in line["wire_bytes"]})
    return {site: sum(line["wire_bytes"].get(site, 0) for line in steps) for site in sites}


def _checks(runs: Mapping[str, Mapping[str, Any]], entropy: float, difference: float) -> dict[str, bool]:
    dense, small = runs["dense"], runs["compressed"]
    sites = compressed_sites()
    return {
        "dense_loss_well_below_unigram_entropy": dense["heldout_loss"] <= _WELL_BELOW * entropy,
        "compressed_loss_well_below_unigram_entropy": small["heldout_loss"] <= _WELL_BELOW * entropy,
        "compressed_loss_within_3_percent_of_dense": small["heldout_loss"] <= _NEAR_DENSE * dense["heldout_loss"],
        "compressed_sites_send_4x_less": ratio(dense["wire_bytes"], small["wire_bytes"], sites) >= _LEAST_RATIO,
        "hf_logits_equal_within_1e-4": difference <= _LOGITS_TOLERANCE,
    }
