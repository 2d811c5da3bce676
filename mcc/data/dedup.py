"""Near-duplicate documents removed: MinHash-LSH finds candidates, the exact Jaccard index decides.

A document is removed when it is at least `threshold` like an earlier one that was kept, so that no two kept documents
are duplicates of each other and chains of ever less similar documents do not collapse into one. What is earlier is the
order of the inputs, or with `keep` that of length or of a number in the documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from mcc.core.config import option, plain
from mcc.core.errors import UsageError, unknown
from mcc.core.events import SILENT, Reporter
from mcc.data.base.blocks import RecordSource
from mcc.data.base.job import Job, run, step_report
from mcc.data.base.publish import Output, records_path
from mcc.data.base.records import ReadConfig
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.streams import expand
from mcc.data.base.work import Work
from mcc.data.base.workers import Workers
from mcc.data.near_duplicates import phases
from mcc.data.near_duplicates.fingerprints import check_saved
from mcc.data.near_duplicates.minhash import Bands, choose_bands
from mcc.data.near_duplicates.phases import (
    DUPLICATES,
    FINGERPRINTS,
    NORMALIZATIONS,
    SIGN,
    WRITE,
    Plan,
    candidates_phase,
    compare_phase,
    decide_phase,
    phase_counts,
    sign_phase,
    write_phase,
)
from mcc.data.near_duplicates.sketch import engine_class
from mcc.data.near_duplicates.texts import Texts

# What decides which documents are alike, and how they are found; equal texts need none of it.
_OF_THE_SEARCH = ("threshold", "shingle_chars", "num_perm", "bands", "rows", "engine")


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """What counts as a duplicate, which one stays, and how hard duplicates are looked for.

    Raises:
        UsageError: a number is out of bounds, a name unknown, or settings contradict each other.
    """

    threshold: float = option(0.8, "least Jaccard index of duplicates")
    shingle_chars: int = option(5, "characters of a shingle")
    num_perm: int = option(256, "values of a sketch, at most")
    bands: int | None = option(None, "bands of the sketch [chosen by datasketch]")
    rows: int | None = option(None, "values of a band [chosen by datasketch]")
    key: str | tuple[str, ...] | None = option(
        None, "key that names a document, one for all inputs or one for each [id, url or FILE:LINE]"
    )
    keep: Literal["first", "longest", "best"] = option("first", "which one of duplicates stays")
    by: str | None = option(None, "key of the number that keep = best goes by")
    engine: str = option("fast", "fast or datasketch")
    exact: bool = option(False, "only equal texts are duplicates")
    normalize: str = option("none", "with exact: none, whitespace or letters")
    workers: int = option(1, "processes")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(f"threshold = {self.threshold} must be above 0 and at most 1")
        for name in ("shingle_chars", "workers"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.num_perm < 2:
            raise UsageError(f"num_perm = {self.num_perm} must be at least 2")
        if (self.bands is None) != (self.rows is None):
            raise UsageError("bands and rows are given together or not at all")
        if self.bands is not None and (self.bands < 1 or self.rows is None or self.rows < 1):
            raise UsageError(f"bands = {self.bands} and rows = {self.rows} must be at least 1")
        if self.keep not in ("first", "longest", "best"):
            raise UsageError(f"keep = {self.keep!r}", "first, longest or best")
        if (self.keep == "best") != (self.by is not None):
            raise UsageError("keep = best and the key it goes by are given together", "--keep best --by KEY")
        if self.normalize not in NORMALIZATIONS:
            raise unknown("normalization", self.normalize, NORMALIZATIONS)
        if self.normalize != "none" and not self.exact:
            raise UsageError(f"normalize = {self.normalize} has no effect without exact", "--exact")
        for one in fields(self):
            if self.exact and one.name in _OF_THE_SEARCH and getattr(self, one.name) != one.default:
                what = f"{one.name} = {getattr(self, one.name)} has no effect with exact"
                raise UsageError(what, "leave it out: texts are equal or not")
        engine_class(self.engine)

    def layout(self) -> Bands:
        """The bands given, or chosen for the threshold."""
        if self.bands is not None and self.rows is not None:
            return Bands(self.bands, self.rows)
        return choose_bands(self.threshold, self.num_perm)


@dataclass(frozen=True, kw_only=True)
class DedupReport(StepReport):
    """`candidates` were compared exactly; `copies` have the very text of another document."""

    removed: int
    copies: int
    candidates: int
    bands: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The files beside the output.

    Args:
        duplicates: gets one line `{"removed", "kept", "similarity"}` for each removed document.
        rejects: bad lines; None for `OUTPUT.rejects.jsonl`, made only when there are any.
        save: gets the fingerprints of the documents that stay, for later runs.
        load: fingerprints of earlier runs, whose documents count as earlier and kept.
    """

    duplicates: Path | None = None
    rejects: Path | None = None
    save: Path | None = None
    load: tuple[Path, ...] = ()


def dedup(
    inputs: Sequence[str | Path],
    output: Path,
    config: DedupConfig | None = None,
    reporter: Reporter = SILENT,
    *,
    duplicates: Path | None = None,
    sides: Sides | None = None,
) -> DedupReport:
    """Write the documents without near-duplicates, in their order.

    Args:
        duplicates: short for `Sides(duplicates=...)`.

    Needs room on the disk of `output` for what it keeps of each document (about 600 bytes, and the text where the input
    is compressed); resident are about 50 bytes a document.

    Raises:
        MccError: bad input, or fingerprints that were made in another way.
    """
    config, sides = config or DedupConfig(), sides or Sides()
    if duplicates is not None:
        sides = replace(sides, duplicates=duplicates)
    with Workers(config.workers) as workers:
        workers.start(phases.__name__)
        return run(dedup_job(inputs, output, config, sides), workers, reporter)


def dedup_job(
    inputs: Sequence[str | Path], output: Path, config: DedupConfig | None = None, sides: Sides | None = None
) -> Job[DedupReport]:
    """The phases of `dedup`."""
    config, sides = config or DedupConfig(), sides or Sides()
    records_path(output)
    source = RecordSource(inputs, config.read)
    plan = make_plan(config, inputs, source, sides.load)
    outputs = side_outputs(output, sides)
    outputs.append(Output(output, phase=WRITE, stream="out"))

    def report(counts: Counter[str], work: Work) -> DedupReport:
        return step_report(
            DedupReport,
            "dedup",
            counts,
            work,
            outputs,
            config.read.max_errors,
            bands=plan.bands.bands if plan.bands else 0,
            rows=plan.bands.rows if plan.bands else 0,
            **phase_counts(counts, work),
        )

    return Job(
        name="dedup",
        output=output,
        key=job_key(config, sides),
        phases=(
            sign_phase(plan, source, sides.rejects or side_path(output, "rejects")),
            candidates_phase(plan),
            compare_phase(plan),
            decide_phase(plan, sides.duplicates, sides.save is not None),
            write_phase(plan, source, output),
        ),
        outputs=outputs,
        report=report,
        inputs=sides.load,
    )


def side_outputs(output: Path, sides: Sides) -> list[Output]:
    """The outputs that stand beside the main one."""
    rejects = sides.rejects or side_path(output, "rejects")
    found = [Output(rejects, phase=SIGN, stream="rejects", optional=sides.rejects is None)]
    if sides.duplicates is not None:
        found.append(Output(records_path(sides.duplicates), file=DUPLICATES))
    if sides.save is not None:
        found.append(Output(sides.save, file=FINGERPRINTS))
    return found


def job_key(config: DedupConfig, sides: Sides) -> object:
    """Everything that decides the result, for a run that goes on where a killed one stopped."""
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sides.load]
    places = [str(path) for path in (sides.duplicates, sides.rejects, sides.save)]
    return [plain(replace(config, workers=1)), states, places]


def make_plan(
    config: DedupConfig, inputs: Sequence[str | Path], source: RecordSource, load: Sequence[Path] = ()
) -> Plan:
    """The settings of all phases over `source` of `inputs`.

    Raises:
        UsageError: there are more or fewer keys than inputs, or a file has two.
        MccError: a file of fingerprints is none, or was made in another way.
    """
    plan = Plan(
        read=config.read,
        loaded=tuple(load),
        texts=Texts(tuple(map(str, source.paths)), config.read.keys[0]),
        names=_names(inputs, config.key),
        engine=config.engine,
        chars=config.shingle_chars,
        bands=None if config.exact else config.layout(),
        threshold=config.threshold,
        normalize=config.normalize,
        order=config.keep,
        score=config.by,
    )
    for path in load:
        check_saved(path, plan.settings())
    return plan


def _names(inputs: Sequence[str | Path], key: str | tuple[str, ...] | None) -> dict[str, str | None]:
    keys: tuple[str | None, ...] = (key,) if isinstance(key, str) else key or (None,)
    if len(keys) == 1:
        keys = (keys[0],) * len(inputs)
    if len(keys) != len(inputs):
        raise UsageError(f"{len(keys)} keys for {len(inputs)} inputs", "give one --key for all, or one for each input")
    found: dict[str, str | None] = {}
    for given, name in zip(inputs, keys, strict=True):
        for path in expand([given]):
            if found.setdefault(str(path), name) != name:
                raise UsageError(f"{path} is given twice, with the keys {found[str(path)]!r} and {name!r}")
    return found
