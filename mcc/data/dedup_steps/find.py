"""`find`: lines `{main: [{other: similarity}, ...]}` of documents that are alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.base.blocks import RecordSource
from mcc.data.base.job import Job, Single, run, step_report
from mcc.data.base.publish import Output, records_path
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.streams import open_output
from mcc.data.base.work import Work
from mcc.data.dedup import DedupConfig, Sides, job_key, make_plan, side_outputs
from mcc.data.near_duplicates.candidates import Ranks
from mcc.data.near_duplicates.phases import (
    COMPARE,
    FIND,
    FINGERPRINTS,
    Plan,
    candidates_phase,
    compare_phase,
    pair_line,
    sign_phase,
)

_PAIRS = "pairs"


@dataclass(frozen=True, kw_only=True)
class PairsReport(StepReport):
    """`pairs` were found in `candidates` comparisons; `copies` have the very text of another document."""

    pairs: int
    copies: int
    candidates: int
    bands: int
    rows: int


def find_duplicates(
    inputs: Sequence[str | Path],
    output: Path,
    config: DedupConfig | None = None,
    reporter: Reporter = SILENT,
    *,
    mains: int = 1,
    sides: Sides | None = None,
) -> PairsReport:
    """Write similar pairs, a line `{main: [{other: similarity}, ...]}` a main document.

    Args:
        config: with the scripts' threshold of 0.5 unless it is given.
        mains: documents of a bucket that all others are compared with, at most; -1: until all have found theirs.
        sides: fingerprints and rejects; `save` gets the fingerprints of all documents.

    Raises:
        UsageError: `mains` is 0, or the settings are for equal texts only.
        MccError: bad input, or fingerprints that were made in another way.
    """
    config = config or DedupConfig(threshold=0.5)
    return run(find_job(inputs, output, config, mains, sides), config.workers, reporter)


def find_job(
    inputs: Sequence[str | Path], output: Path, config: DedupConfig, mains: int = 1, sides: Sides | None = None
) -> Job[PairsReport]:
    """The phases of `find_duplicates`."""
    sides = sides or Sides()
    if mains == 0 or mains < -1:
        raise UsageError(f"heuristic-iter = {mains}", "the documents of a bucket to compare with, or -1 for all")
    if config.keep != "first":
        raise UsageError(f"keep = {config.keep} has no effect when pairs are only found", "leave it out")
    source = RecordSource(inputs, config.read)
    plan = make_plan(config, inputs, source, sides.load)
    outputs = [*side_outputs(output, sides), Output(records_path(output, parquet=False), file=_PAIRS)]

    def report(counts: Counter[str], work: Work) -> PairsReport:
        more = {"copies": work.counts(FIND)["copies"], "candidates": counts["compared"], "pairs": counts["pairs"]}
        counts["documents_out"], counts["chars_out"] = counts["documents_in"], counts["chars_in"]
        layout = {"bands": plan.bands.bands if plan.bands else 0, "rows": plan.bands.rows if plan.bands else 0}
        limit = config.read.max_errors
        return step_report(PairsReport, "find duplicates", counts, work, outputs, limit, **more, **layout)

    return Job(
        name="find duplicates",
        output=output,
        key=[job_key(config, sides), mains],
        phases=(
            sign_phase(plan, source, sides.rejects or side_path(output, "rejects")),
            candidates_phase(plan),
            compare_phase(plan, mains if mains > 0 else 1 << 40),
            Single(name=_PAIRS, run=_WritePairs(plan, output, sides.save is not None)),
        ),
        outputs=outputs,
        report=report,
        inputs=sides.load,
    )


@dataclass(frozen=True)
class _WritePairs:
    plan: Plan
    output: Path
    save: bool

    def __call__(self, work: Work, reporter: Reporter) -> dict[str, int]:
        """Pairs that were compared, then copies: groups then begin with the earliest document."""
        found = 0
        with self.plan.prints(work) as prints, open_output(work.path(_PAIRS), self.output) as file:
            for path in work.parts(COMPARE, "decisions"):
                with path.open("rb") as source:
                    while piece := source.read(1 << 20):
                        file.write(piece)
            order = Ranks.load(work.path("order"))
            original = np.fromfile(work.path("groups") / "original", dtype=np.uint32)
            copies = np.flatnonzero(original != np.arange(len(original), dtype=np.uint32))
            copies = copies[copies >= prints.loaded]
            copies = copies[np.argsort(original[copies], kind="stable")]
            ends = np.flatnonzero(np.diff(original[copies], append=np.uint32(0xFFFFFFFF))) + 1
            start = 0
            for end in ends.tolist():
                others = [(rank, 1.0) for rank in copies[start:end].tolist()]
                file.write(orjson.dumps(pair_line(prints, order, int(original[copies[start]]), others)) + b"\n")
                found += len(others)
                start = end
            if self.save:
                prints.save(work.path(FINGERPRINTS), self.plan.settings(), np.ones(len(prints), dtype=bool))
        return {"pairs": found}
