"""The phases of deduplication: sign every block, find candidates, compare them, decide, write what stays."""

# n documents, b bands

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from mcc.core.events import Reporter
from mcc.data.base.blocks import Again, Block, FileSource, RecordSource, Source
from mcc.data.base.job import Apply, Map, Single
from mcc.data.base.part import Part
from mcc.data.base.records import BOM, ReadConfig, Record
from mcc.data.base.streams import open_output
from mcc.data.base.work import Work
from mcc.data.near_duplicates.candidates import NONE, Ranks, find_candidates, ranks
from mcc.data.near_duplicates.compare import Likeness, Links, duplicates, pairs
from mcc.data.near_duplicates.fingerprints import Fingerprints, pack_chunk
from mcc.data.near_duplicates.minhash import Bands
from mcc.data.near_duplicates.sketch import Engine, engine_class
from mcc.data.near_duplicates.texts import Texts

SIGN, FIND, COMPARE, DECIDE, WRITE = "sign", "candidates", "compare", "decide", "write"
# What `Single` phases leave in the job's folder.
DUPLICATES, FINGERPRINTS = "duplicates", "fingerprints"
_DECISION = np.dtype([("rank", "<u4"), ("kept", "<u4"), ("similarity", "<f8")])
_NOT_LETTERS = re.compile(r"[\W_]+")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all phases need to know; picklable.

    Args:
        loaded: files of fingerprints whose documents come before all others.
        texts: how texts are kept, and found again.
        names: path -> key that names its documents; None for `id`, `url` or the place.
        bands: None when only equal texts are duplicates.
        normalize: how texts are made alike before they are compared as equal: `none`, `whitespace`, `letters`.
        order: `first`, `longest`, `best`.
        score: key of the number that `best` goes by.
    """

    read: ReadConfig
    loaded: tuple[Path, ...]
    texts: Texts
    names: Mapping[str, str | None]
    engine: str
    chars: int
    bands: Bands | None
    threshold: float
    normalize: str
    order: str
    score: str | None

    def make_engine(self) -> Engine | None:
        """The engine, unless only equal texts are duplicates."""
        return engine_class(self.engine)(self.bands, self.chars) if self.bands is not None else None

    def settings(self) -> dict[str, Any]:
        """What fingerprints must have in common to be compared."""
        if self.bands is None:
            return {"exact": True, "normalize": self.normalize}
        return {
            "exact": False,
            "normalize": "none",
            "engine": self.engine,
            "library": engine_class(self.engine).version(),
            "shingle_chars": self.chars,
            "bands": self.bands.bands,
            "rows": self.bands.rows,
        }

    def prints(self, work: Work) -> Fingerprints:
        """All fingerprints: the loaded ones, and those that the first phase wrote."""
        return Fingerprints(self.loaded, work.parts(SIGN, "prints"), self.texts.finder())


NORMALIZATIONS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "whitespace": lambda text: " ".join(text.split()),
    "letters": lambda text: _NOT_LETTERS.sub("", unicodedata.normalize("NFKC", text).casefold()),
}


def sign_phase(plan: Plan, source: RecordSource, rejects: Path) -> Map:
    """Fingerprints of every block, and the bad lines."""
    return Map(name=SIGN, source=source, make=_Sign(plan), streams={"prints": None, "rejects": rejects})


@dataclass(frozen=True)
class _Sign:
    plan: Plan

    def __call__(self, work: Work) -> Apply:
        plan, engine = self.plan, self.plan.make_engine()
        normal = NORMALIZATIONS[plan.normalize]
        text_key = plan.read.keys[0]

        def apply(block: Block, part: Part) -> None:
            texts: list[str] = []
            names: list[bytes] = []
            lines: list[int] = []
            scores: list[float] = []
            sizes: list[int] = []
            there = block.read()
            for where, line, record in there.records_and_lines(plan.read, part):
                try:
                    name = _name(record, plan.names.get(block.path), where)
                    score = _score(record, plan.score)
                except ValueError as error:
                    part.counts["documents_in"] -= 1
                    part.counts["chars_in"] -= len(record[text_key])
                    part.bad_line(where, str(error), line, plan.read)
                    continue
                texts.append(record[text_key])
                names.append(orjson.dumps(name))
                lines.append(int(where.rpartition(":")[2]))
                scores.append(score)
                sizes.append(len(line))
            if texts:
                kept = [b""] * len(texts)
                if engine is not None:
                    kept = plan.texts.kept(block, there.data, lines, sizes) or [text.encode() for text in texts]
                for piece in _chunk(block, texts, names, lines, scores, kept):
                    part.write_bytes("prints", piece)

        def _chunk(
            block: Block,
            texts: list[str],
            names: list[bytes],
            lines: list[int],
            scores: list[float],
            kept: Sequence[bytes],
        ) -> Iterator[bytes]:
            keys, sketches = engine.sketches(texts) if engine is not None else (b"", b"")
            sections = {
                "digest": b"".join(blake2b(text.encode(), digest_size=16).digest() for text in map(normal, texts)),
                "keys": keys,
                "sketch": sketches,
                "line": np.array(lines, dtype="<i8"),
                "chars": np.array([len(text) for text in texts], dtype="<i8"),
                "score": np.array(scores, dtype="<f8") if plan.score is not None else b"",
            }
            return pack_chunk(block.unit, block.part, sections, names, kept)

        return apply


def _name(record: Record, key: str | None, where: str) -> Any:
    if key is None:
        return next((record[name] for name in ("id", "url") if name in record), where)
    if key not in record:
        raise ValueError(f"no key {key!r} to name the document by (there is {', '.join(map(repr, record))})")
    return record[key]


def _score(record: Record, key: str | None) -> float:
    if key is None:
        return 0.0
    found = record.get(key)
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise ValueError(f"no number under key {key!r} to choose the best by")
    return float(found)


def candidates_phase(plan: Plan) -> Single:
    """Links between documents that meet in a band."""
    return Single(name=FIND, run=_Candidates(plan))


@dataclass(frozen=True)
class _Candidates:
    plan: Plan

    def __call__(self, work: Work, reporter: Reporter) -> dict[str, int]:
        plan = self.plan
        column = {"first": None, "longest": "chars", "best": "score"}[plan.order]
        with plan.prints(work) as prints:
            order = ranks(prints, column)
            order.save(work.path("order"))
            bands = plan.bands.bands if plan.bands is not None else 0
            return find_candidates(prints, order, bands, work.path("groups"), reporter)


def compare_phase(plan: Plan, mains: int | None = None) -> Map:
    """Candidates compared: decisions, or with `mains` the pairs that the OpenWebText scripts find."""
    make = _Compare(plan) if mains is None else _Pair(plan, mains)
    return Map(name=COMPARE, source=_groups, make=make, streams={"decisions": None}, unit="groups")


def _groups(work: Work) -> Source:
    return FileSource(sorted(work.path("groups").glob("group-*")))


@dataclass(frozen=True)
class _Compare:
    plan: Plan

    def __call__(self, work: Work) -> Apply:
        prints, likeness = _likeness(self.plan, work)

        def apply(block: Block, part: Part) -> None:
            found: list[tuple[int, int, float]] = []
            if likeness is not None and self.plan.bands is not None:
                before = likeness.compared
                with Links(Path(block.path), self.plan.bands.bands) as links:
                    found = list(duplicates(links, likeness, prints.loaded))
                part.counts["compared"] += likeness.compared - before
            part.write_bytes("decisions", np.array(found, dtype=_DECISION).tobytes())

        return apply


@dataclass(frozen=True)
class _Pair:
    plan: Plan
    mains: int

    def __call__(self, work: Work) -> Apply:
        prints, likeness = _likeness(self.plan, work)
        order = Ranks.load(work.path("order"))

        def apply(block: Block, part: Part) -> None:
            if likeness is None or self.plan.bands is None:
                return
            before = likeness.compared
            others: dict[int, list[tuple[int, float]]] = {}
            with Links(Path(block.path), self.plan.bands.bands) as links:
                for main, rank, similarity in pairs(links, likeness, prints.loaded, self.mains):
                    others.setdefault(main, []).append((rank, similarity))
            part.counts["compared"] += likeness.compared - before
            for main in sorted(others):
                part.write("decisions", pair_line(prints, order, main, others[main]))
                part.counts["pairs"] += len(others[main])

        return apply


def pair_line(prints: Fingerprints, order: Ranks, main: int, others: Sequence[tuple[int, float]]) -> Record:
    """`{main: [{other: similarity}, ...]}`, with names for ranks."""

    def name(rank: int) -> str:
        return name_text(orjson.loads(prints.name(order.document(rank))))

    return {name(main): [{name(rank): round(similarity, 6)} for rank, similarity in others]}


def name_text(name: Any) -> str:
    """A name as a key of JSON: text as it is, anything else as JSON."""
    return name if isinstance(name, str) else orjson.dumps(name).decode()


def _likeness(plan: Plan, work: Work) -> tuple[Fingerprints, Likeness | None]:
    prints = plan.prints(work)
    engine = plan.make_engine()
    if engine is None:
        return prints, None
    order = Ranks.load(work.path("order"))
    return prints, Likeness(prints, order, engine, plan.chars, plan.threshold)


def decide_phase(plan: Plan, duplicates_path: Path | None, save: bool) -> Single:
    """The file of duplicates, the fingerprints to save, and for the last phase, which documents go."""
    return Single(name=DECIDE, run=_Decide(plan, duplicates_path, save))


@dataclass(frozen=True)
class _Decide:
    plan: Plan
    duplicates_path: Path | None
    save: bool

    def __call__(self, work: Work, reporter: Reporter) -> dict[str, int]:
        with self.plan.prints(work) as prints:
            order = Ranks.load(work.path("order"))
            kept_of, similarity = _decisions(work, len(prints))
            removed = np.zeros(len(prints), dtype=bool)
            gone = kept_of != NONE
            if order.order is None:
                removed[:] = gone
            else:
                removed[order.order] = gone
            removed[: prints.loaded] = False
            removed.tofile(work.path("removed"))
            if self.duplicates_path is not None:
                self._write_duplicates(work, prints, order, removed, kept_of, similarity)
            if self.save:
                prints.save(work.path(FINGERPRINTS), self.plan.settings(), ~removed)
        return {"removed": int(removed.sum())}

    def _write_duplicates(
        self,
        work: Work,
        prints: Fingerprints,
        order: Ranks,
        removed: NDArray[np.bool_],
        kept_of: NDArray[np.uint32],
        similarity: NDArray[np.float64],
    ) -> None:
        assert self.duplicates_path is not None
        rank = np.arange(len(prints), dtype=np.uint32)
        if order.order is not None:
            rank[order.order] = rank.copy()
        with open_output(work.path(DUPLICATES), self.duplicates_path) as file:
            for document in np.flatnonzero(removed).tolist():
                own = rank[document]
                kept = prints.name(order.document(int(kept_of[own])))
                value = b"%.6g" % round(float(similarity[own]), 6)
                line = b'{"removed":%s,"kept":%s,"similarity":%s}\n'
                file.write(line % (prints.name(document), kept, value if b"." in value else value + b".0"))


def _decisions(work: Work, count: int) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    """By rank: the rank of the document that is kept in its place (`NONE`: it is kept itself), and the similarity."""
    kept_of = np.full(count, NONE, dtype=np.uint32)
    similarity = np.ones(count)
    for path in work.parts(COMPARE, "decisions"):
        with path.open("rb") as file:
            while len(part := np.fromfile(file, dtype=_DECISION, count=1 << 16)):
                kept_of[part["rank"]] = part["kept"]
                similarity[part["rank"]] = part["similarity"]
    original = np.fromfile(work.path("groups") / "original", dtype=np.uint32)
    copies = np.flatnonzero(original != np.arange(count, dtype=np.uint32))
    first = original[copies]
    # A copy of a document that went is as like the kept one as that was.
    kept_of[copies] = np.where(kept_of[first] == NONE, first, kept_of[first])
    similarity[copies] = similarity[first]
    return kept_of, similarity


def write_phase(plan: Plan, source: RecordSource, output: Path) -> Map:
    """The lines of the documents that stay, as they were."""
    return Map(name=WRITE, source=Again(source), make=_Write(plan), streams={"out": output})


@dataclass(frozen=True)
class _Write:
    plan: Plan

    def __call__(self, work: Work) -> Apply:
        prints = self.plan.prints(work)
        places = prints.places()
        removed = work.path("removed").open("rb", buffering=0)

        def apply(block: Block, part: Part) -> None:
            chunk = places.get((block.unit, block.part))
            if chunk is None:
                return
            first, end = prints.span(chunk)
            gone = np.frombuffer(os.pread(removed.fileno(), end - first, first), dtype=bool).tolist()
            numbers, chars = prints.column(chunk, "line").tolist(), prints.column(chunk, "chars").tolist()
            at = 0
            for number, line in block.lines():
                if at < len(numbers) and number == numbers[at]:
                    if not gone[at]:
                        part.keep_line((line.removeprefix(BOM) if number == 1 else line).strip(), chars[at])
                    at += 1

        return apply


def phase_counts(counts: Counter[str], work: Work) -> dict[str, int]:
    """Counts of the phases under names of their own."""
    return {
        "removed": work.counts(DECIDE)["removed"],
        "copies": work.counts(FIND)["copies"],
        "candidates": counts["compared"],
    }
