"""URLs worth fetching, chosen by their addresses: the rules of `mcc.data.url_rules`, and each URL once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import orjson

from mcc.core.config import plain
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.base.block_table import BlockTable, read_range, write_row
from mcc.data.base.blocks import Block, BlockFile, RecordSource
from mcc.data.base.job import Job, Map, Single, run, step_report
from mcc.data.base.line_blocks import LineFile
from mcc.data.base.part import Part
from mcc.data.base.publish import Output, records_path
from mcc.data.base.records import BOM, TEXT, ReadConfig, Record
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.streams import COMPRESSIONS, content_suffix
from mcc.data.base.work import Work
from mcc.data.repeated import DIGEST_BYTES, find_repeated
from mcc.data.url_rules import KINDS, UrlRules, UrlsConfig

__all__ = ["UrlsConfig", "UrlsReport", "urls", "urls_job"]

_JUDGE, _REPEATED, _CHOOSE = "judge", "repeated", "choose"
_DUPLICATE = KINDS.index("duplicate")


@dataclass(frozen=True, kw_only=True)
class UrlsReport(StepReport):
    """`documents_in` and `documents_out` count URLs, `rejected` those refused, by rule."""


def urls(
    inputs: Sequence[str | Path],
    output: Path,
    config: UrlsConfig | None = None,
    reporter: Reporter = SILENT,
    *,
    rejects: Path | None = None,
) -> UrlsReport:
    """Write the URLs that no rule refuses, in order; the others go to `rejects` with the reason.

    Args:
        inputs: `.txt` files with a URL a line, folders of such files, or records with the key `config.key`.
        output: `.txt` for a URL a line, else records: those read, or `{url}`.
        rejects: default `OUTPUT.rejects.jsonl`, made when there is something to put into it.

    Raises:
        MccError: bad input.
    """
    config = config or UrlsConfig()
    return run(urls_job(inputs, output, config, rejects), config.workers, reporter)


def urls_job(
    inputs: Sequence[str | Path], output: Path, config: UrlsConfig | None = None, rejects: Path | None = None
) -> Job[UrlsReport]:
    """The step as a job: judge every URL, find those that stand there twice, write."""
    config = config or UrlsConfig()
    read = replace(config.read, keys=(config.key,))
    config = replace(config, read=read)
    UrlRules(config)  # tells of a bad list before anything is read
    source = _UrlSource(_files(inputs), read)
    text = content_suffix(output) in TEXT
    if not text:
        records_path(output)
    optional = rejects is None
    rejects = rejects or side_path(Path(f"{_stem(output)}.jsonl") if text else output, "rejects")
    outputs = [
        Output(rejects, phase=_CHOOSE, stream="rejects", optional=optional),
        Output(output, phase=_CHOOSE, stream="out"),
    ]

    def report(_: Mapping[str, int], work: Work) -> UrlsReport:
        return step_report(UrlsReport, "urls", work.counts(_CHOOSE), work, outputs, read.max_errors)

    lists = [Path(name) for name in (*config.domain_files, *config.extension_files, *config.pattern_files)]
    return Job(
        name="urls",
        output=output,
        key=[
            plain(replace(config, workers=1)),
            text,
            [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in lists],
        ],
        phases=(
            Map(
                name=_JUDGE,
                source=source,
                make=partial(_Judge, config),
                streams={"table": None, "verdicts": None, "digests": None},
            ),
            Single(name=_REPEATED, run=partial(find_repeated, _JUDGE, "digests", _REPEATED)),
            Map(
                name=_CHOOSE,
                source=source,
                make=partial(_Choose, config, text),
                streams={"out": output, "rejects": rejects},
            ),
        ),
        outputs=outputs,
        report=report,
        inputs=lists,
    )


class _Judge:
    """Gives a byte for every URL of a block (its place in `KINDS`), and a digest for every one that passes."""

    def __init__(self, config: UrlsConfig, work: Work) -> None:
        self._rules = UrlRules(config)
        self._config = config

    def __call__(self, block: Block, out: Part) -> None:
        verdicts = bytearray()
        digests = []
        told_later = Part({})
        for _, url, _ in _urls(block, self._config.read, told_later):
            kind = self._rules.judge(url)
            verdicts.append(kind)
            if not kind and self._config.duplicates:
                digests.append(blake2b(url.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).digest())
        out.counts.update(told_later.counts)
        write_row(out, "table", block, len(verdicts), len(digests))
        out.write_bytes("verdicts", bytes(verdicts))
        out.write_bytes("digests", b"".join(digests))


class _Choose:
    """Writes the URLs of a block that passed, and sets the others aside."""

    def __init__(self, config: UrlsConfig, text: bool, work: Work) -> None:
        self._rules = UrlRules(config)
        self._read = config.read
        self._duplicates = config.duplicates
        self._text = text
        self._table = BlockTable(work.parts(_JUDGE, "table"), ("urls", "passed"))
        self._verdicts = work.parts(_JUDGE, "verdicts")
        self._repeated = work.path(_REPEATED)

    def __call__(self, block: Block, out: Part) -> None:
        verdicts = read_range(self._verdicts, self._table.before(block, "urls"), self._table.of(block, "urls"))
        passed = self._table.of(block, "passed")
        again = iter(read_range([self._repeated], self._table.before(block, "passed"), passed))
        for (where, url, record), kind in zip(_urls(block, self._read, out), verdicts, strict=True):
            if not kind and self._duplicates and next(again):
                kind = _DUPLICATE
            if kind:
                out.reject(record, KINDS[kind], self._rules.reason(url, kind), where)
            else:
                out.keep_line(url.encode() if self._text else orjson.dumps(record), len(url))


def _urls(block: Block, read: ReadConfig, out: Part) -> Iterator[tuple[str, str, Record]]:
    """(`FILE:LINE`, URL, record) of a block."""
    if content_suffix(Path(block.path)) not in TEXT:
        for where, record in block.records(read, out):
            yield where, record[read.keys[0]].strip(), record
        return
    for number, line in block.lines():
        if number == 1:
            line = line.removeprefix(BOM)
        where = f"{block.path}:{number}"
        try:
            url = line.decode().strip()
        except UnicodeDecodeError as error:
            out.bad_line(where, f"not UTF-8 at byte {error.start}", line, read)
            continue
        if url:
            out.counts["documents_in"] += 1
            out.counts["chars_in"] += len(url)
            yield where, url, {read.keys[0]: url}
    for number, reason, line in block.problems:
        out.bad_line(f"{block.path}:{number}", reason, line, read)


class _UrlSource(RecordSource):
    """Records, and text files whose lines are URLs."""

    def __init__(self, inputs: Sequence[str | Path], read: ReadConfig) -> None:
        super().__init__(inputs, replace(read, keys=("text",)))

    def opened(self, path: Path) -> BlockFile:
        if content_suffix(path) in TEXT:
            return LineFile(path, self.read, self.block_bytes)
        return super().opened(path)


def _files(inputs: Sequence[str | Path]) -> list[str | Path]:
    """The inputs, folders replaced by their .txt files in order of name."""
    found: list[str | Path] = []
    for given in inputs:
        if Path(given).is_dir():
            inside = sorted(path for path in Path(given).iterdir() if content_suffix(path) in TEXT and path.is_file())
            if not inside:
                raise MccError(f"no .txt files in {given}", "give a folder of text files with a URL a line")
            found += inside
        else:
            found.append(given)
    return found


def _stem(path: Path) -> Path:
    name = path.name
    for suffix in (*COMPRESSIONS, *TEXT):
        name = name.removesuffix(suffix)
    if not name:
        raise UsageError(f"output {path} has no name")
    return path.with_name(name)
