"""Deduplication in the three steps of Megatron-LM's tools/openwebtext, reading and writing their files.

`find` writes lines `{main: [{other: similarity}, ...]}`, `group` joins what is similar to lines `{"i": [name, ...]}`,
`remove` keeps the first of each group. Unlike the scripts, `find` compares with the first document of a bucket, not
with one drawn at random, and lists in the order of the input, so that the document that stays is the earliest.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import orjson

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import require_file
from mcc.data.base.blocks import Block, RecordSource
from mcc.data.base.job import Apply, Job, Map, Single, run, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output, records_path
from mcc.data.base.records import ReadConfig
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.streams import lines, open_output
from mcc.data.base.work import Work
from mcc.data.dedup import DedupConfig, Sides, job_key, make_plan, side_outputs
from mcc.data.near_duplicates.candidates import Ranks, Sets
from mcc.data.near_duplicates.phases import (
    COMPARE,
    FIND,
    FINGERPRINTS,
    Plan,
    candidates_phase,
    compare_phase,
    name_text,
    pair_line,
    sign_phase,
)

_PAIRS, _GROUPS, _LIST, _REMOVE = "pairs", "groups", "list", "remove"
_NAME = np.dtype("S16")


@dataclass(frozen=True, kw_only=True)
class PairsReport(StepReport):
    """`pairs` were found in `candidates` comparisons; `copies` have the very text of another document."""

    pairs: int
    copies: int
    candidates: int
    bands: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class GroupsReport(StepReport):
    """`groups` of documents, of which all but one each are `duplicates`. Documents in are lines of pairs."""

    groups: int
    duplicates: int


@dataclass(frozen=True, kw_only=True)
class RemoveReport(StepReport):
    """`removed` documents stood in a group, not as its first."""

    removed: int


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


def group_duplicates(pairs: Path, output: Path, threshold: float = 0.7, reporter: Reporter = SILENT) -> GroupsReport:
    """Join pairs that are similar enough, and what is connected through them, to groups.

    Args:
        pairs: lines `{main: [{other: similarity}, ...]}`, as `find_duplicates` writes them.
        output: lines `{"0": [name, ...]}`, the names in the order in which they were met.
        threshold: least similarity of a pair.

    Resident are about 60 bytes for each time that a name stands in a pair.

    Raises:
        UsageError: the threshold is not between 0 and 1.
        MccError: a line is no line of pairs.
    """
    return run(group_job(pairs, output, threshold), reporter=reporter)


def group_job(pairs: Path, output: Path, threshold: float = 0.7) -> Job[GroupsReport]:
    """The phase of `group_duplicates`."""
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold = {threshold} must be between 0 and 1")
    require_file(pairs, "file of pairs")
    outputs = [Output(records_path(output, parquet=False), file=_GROUPS)]

    def report(counts: Counter[str], work: Work) -> GroupsReport:
        more = {name: counts[name] for name in ("groups", "duplicates")}
        return step_report(GroupsReport, "group duplicates", counts, work, outputs, **more)

    state = pairs.stat()
    return Job(
        name="group duplicates",
        output=output,
        key=[str(pairs), state.st_size, state.st_mtime_ns, threshold],
        phases=(Single(name=_GROUPS, run=_Group(pairs, output, threshold)),),
        outputs=outputs,
        report=report,
        inputs=(pairs,),
    )


@dataclass(frozen=True)
class _Group:
    pairs: Path
    output: Path
    threshold: float

    def __call__(self, work: Work, reporter: Reporter) -> dict[str, int]:
        names_path, count = work.path("names"), 0
        with names_path.open("wb") as names, work.path("digests").open("wb") as digests:
            sizes, owners = work.path("sizes").open("wb"), work.path("owners").open("wb")
            with sizes, owners, reporter.task("group duplicates", unit="lines") as task:
                for number, line in lines(self.pairs):
                    if not line or line.isspace():
                        continue
                    found = [orjson.dumps(name) for name in self._names(line, number)]
                    names.write(b"".join(found))
                    digests.write(b"".join(_digest(name) for name in found))
                    np.array([len(name) for name in found], dtype=np.int64).tofile(sizes)
                    np.full(len(found), count, dtype=np.uint32).tofile(owners)
                    count += 1
                    task.advance()
        groups, duplicates = self._write(work)
        return {"documents_in": count, "documents_out": groups, "groups": groups, "duplicates": duplicates}

    def _names(self, line: bytes, number: int) -> Iterator[str]:
        try:
            found = orjson.loads(line)
            for main, others in found.items():
                yield main
                for other in others:
                    yield from (name for name, similarity in other.items() if similarity >= self.threshold)
        except (ValueError, AttributeError, TypeError):
            raise MccError(
                f"{self.pairs}:{number}: no line of pairs", "lines are {main: [{other: similarity}, ...]}"
            ) from None

    def _write(self, work: Work) -> tuple[int, int]:
        digests = np.fromfile(work.path("digests"), dtype=_NAME)
        owners = np.fromfile(work.path("owners"), dtype=np.uint32)
        ends = np.cumsum(np.fromfile(work.path("sizes"), dtype=np.int64))
        _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        # Each name has the number of its first place; all names of a line are joined with the line's first one.
        name = first[inverse].astype(np.uint32)
        starts = np.flatnonzero(np.diff(owners, prepend=np.uint32(0xFFFFFFFF)))
        sets = Sets(len(digests))
        sets.join(name, name[np.repeat(starts, np.diff(starts, append=len(owners)))])
        places = np.sort(first).astype(np.uint32)
        roots = sets.roots(places)
        order = np.argsort(roots, kind="stable")
        groups = 0
        members: list[bytes] = []
        with open_output(work.path(_GROUPS), self.output) as file, work.path("names").open("rb") as names:
            for at, place in enumerate(places[order].tolist()):
                begin = int(ends[place - 1]) if place else 0
                members.append(os.pread(names.fileno(), int(ends[place]) - begin, begin))
                if at + 1 == len(order) or roots[order[at + 1]] != roots[order[at]]:
                    if len(members) > 1:
                        file.write(b'{"%d":[%s]}\n' % (groups, b",".join(members)))
                        groups += 1
                    members.clear()
        return groups, int(len(places) - len(np.unique(roots)))


def _digest(name: bytes) -> bytes:
    # Never a zero at the end: numpy takes it for padding.
    return blake2b(name, digest_size=15).digest() + b"\1"


@dataclass(frozen=True, kw_only=True)
class RemoveConfig:
    """How documents are named."""

    key: str = option("url", "key that names a document")
    workers: int = option(1, "processes")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")


def remove_duplicates(
    groups: Path,
    inputs: Sequence[str | Path],
    output: Path,
    config: RemoveConfig | None = None,
    reporter: Reporter = SILENT,
    *,
    rejects: Path | None = None,
) -> RemoveReport:
    """Write the documents that are in no group, or the first of theirs.

    Args:
        groups: lines `{"i": [name, ...]}`, as `group_duplicates` writes them.

    Resident are 16 bytes for each document to remove, in each process.

    Raises:
        MccError: a line is no group, or bad input.
    """
    config = config or RemoveConfig()
    return run(remove_job(groups, inputs, output, config, rejects), config.workers, reporter)


def remove_job(
    groups: Path,
    inputs: Sequence[str | Path],
    output: Path,
    config: RemoveConfig | None = None,
    rejects: Path | None = None,
) -> Job[RemoveReport]:
    """The phases of `remove_duplicates`."""
    config = config or RemoveConfig()
    require_file(groups, "file of groups")
    aside = rejects or side_path(output, "rejects")
    outputs = [
        Output(aside, phase=_REMOVE, stream="rejects", optional=rejects is None),
        Output(records_path(output), phase=_REMOVE, stream="out"),
    ]

    def report(counts: Counter[str], work: Work) -> RemoveReport:
        limit = config.read.max_errors
        return step_report(
            RemoveReport, "remove duplicates", counts, work, outputs, limit, removed=work.counts(_REMOVE)["removed"]
        )

    state = groups.stat()
    return Job(
        name="remove duplicates",
        output=output,
        key=[str(groups), state.st_size, state.st_mtime_ns, config.key, str(aside)],
        phases=(
            Single(name=_LIST, run=_List(groups)),
            Map(
                name=_REMOVE,
                source=RecordSource(inputs, config.read),
                make=_Remove(config),
                streams={"out": output, "rejects": aside},
            ),
        ),
        outputs=outputs,
        report=report,
        inputs=(groups,),
    )


@dataclass(frozen=True)
class _List:
    groups: Path

    def __call__(self, work: Work, reporter: Reporter) -> None:
        with work.path("listed").open("wb") as file:
            for number, line in lines(self.groups):
                if line and not line.isspace():
                    file.write(b"".join(_digest(orjson.dumps(name)) for name in self._names(line, number)))
        np.sort(np.fromfile(work.path("listed"), dtype=_NAME)).tofile(work.path("listed"))

    def _names(self, line: bytes, number: int) -> Iterator[str]:
        try:
            for names in orjson.loads(line).values():
                if not isinstance(names, list):
                    raise TypeError
                yield from map(name_text, names[1:])
        except (ValueError, AttributeError, TypeError):
            raise MccError(f"{self.groups}:{number}: no group", 'lines are {"i": [name, ...]}') from None


@dataclass(frozen=True)
class _Remove:
    config: RemoveConfig

    def __call__(self, work: Work) -> Apply:
        config, text_key = self.config, self.config.read.keys[0]
        listed = np.fromfile(work.path("listed"), dtype=_NAME)

        def apply(block: Block, part: Part) -> None:
            found: list[tuple[bytes, int]] = []
            digests: list[bytes] = []
            for where, line, record in block.records_and_lines(config.read, part):
                if config.key not in record:
                    part.counts["documents_in"] -= 1
                    part.counts["chars_in"] -= len(record[text_key])
                    part.bad_line(where, f"no key {config.key!r} to name the document by", line, config.read)
                    continue
                found.append((line.strip(), len(record[text_key])))
                digests.append(_digest(orjson.dumps(name_text(record[config.key]))))
            own = np.array(digests, dtype=_NAME)
            at = np.minimum(np.searchsorted(listed, own), max(len(listed) - 1, 0))
            gone = listed[at] == own if len(listed) else np.zeros(len(own), dtype=bool)
            for (line, chars), is_gone in zip(found, gone.tolist(), strict=True):
                if not is_gone:
                    part.keep_line(line, chars)
            part.counts["removed"] += int(gone.sum())

        return apply
