"""`group`: what is alike, and what is connected through it, in lines `{"i": [name, ...]}`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import require_file
from mcc.data.base.job import Job, Single, run, step_report
from mcc.data.base.publish import Output, records_path
from mcc.data.base.step import StepReport
from mcc.data.base.streams import lines, open_output
from mcc.data.base.work import Work
from mcc.data.dedup_steps.names import NAME, digest
from mcc.data.near_duplicates.candidates import Sets

_GROUPS = "groups"


@dataclass(frozen=True, kw_only=True)
class GroupsReport(StepReport):
    """`groups` of documents, of which all but one each are `duplicates`. Documents in are lines of pairs."""

    groups: int
    duplicates: int


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
                    digests.write(b"".join(digest(name) for name in found))
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
        digests = np.fromfile(work.path("digests"), dtype=NAME)
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
