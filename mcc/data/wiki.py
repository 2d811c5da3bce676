"""MediaWiki dumps (`pages-articles`) to documents, with any number of processes and in constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

from mcc.core.config import option, plain
from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.base.blocks import Block
from mcc.data.base.job import Job, Map, run, step_report
from mcc.data.base.part import Part
from mcc.data.base.publish import Output, records_path
from mcc.data.base.records import ReadConfig, Record
from mcc.data.base.step import StepReport, side_path
from mcc.data.base.work import Work
from mcc.data.mediawiki.dump import BadPage, DumpSource, Page, Site, pages, read_pages
from mcc.data.mediawiki.wikitext import WikitextConfig, clean

_NAME = "wiki"


@dataclass(frozen=True, kw_only=True)
class WikiConfig:
    """How articles become text.

    Raises:
        UsageError: a number is out of range.
    """

    text: WikitextConfig = field(default_factory=WikitextConfig)
    min_chars: int = option(1, "articles whose text is shorter are dropped")
    punctuation: bool = option(False, "make punctuation uniform, as the filter `punctuation` does with NLTK")
    workers: int = option(1, "processes that decompress, parse and clean")
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")
        if self.min_chars < 0:
            raise UsageError(f"min_chars = {self.min_chars} must not be negative")


@dataclass(frozen=True, kw_only=True)
class WikiReport(StepReport):
    """`documents_in` are articles; `pages` counts redirects and other namespaces too."""

    pages: int
    redirects: int


def article(page: Page, site: Site, config: WikitextConfig | None = None) -> Record:
    """The record `{id, url, title, text}` of an article."""
    url = site.base + quote(page.title.replace(" ", "_"), safe="/:@!$*(),;'")
    text = clean(page.text, config, files=site.files, categories=site.categories)
    return {"id": page.id, "url": url, "title": page.title, "text": text}


def read_articles(path: str | Path, config: WikiConfig | None = None) -> Iterator[Record]:
    """The articles of a dump as records, in one process; redirects and other namespaces are left out.

    Raises:
        MccError: the dump is missing or damaged.
    """
    config = config or WikiConfig()
    source = DumpSource([path], config.read.block_bytes)
    uniform = _punctuation(config)
    for page in read_pages(source):
        if page.namespace == "0" and not page.redirect:
            record = article(page, source.sites[str(source.paths[0])], config.text)
            record["text"] = uniform(record["text"])
            if len(record["text"]) >= config.min_chars:
                yield record


def wiki_job(
    inputs: Sequence[str | Path], output: Path, config: WikiConfig | None = None, rejects: Path | None = None
) -> Job[WikiReport]:
    """The job of `wiki`.

    Raises:
        MccError: a dump is missing, cut off, or none.
    """
    config = config or WikiConfig()
    source = DumpSource(inputs, config.read.block_bytes)
    rejects_path = rejects or side_path(output, "rejects")
    outputs = [
        Output(rejects_path, _NAME, "rejects", optional=rejects is None),
        Output(records_path(output), _NAME, "out"),
    ]

    def report(counts: Counter[str], work: Work) -> WikiReport:
        more = {"pages": counts["pages"], "redirects": counts["redirects"]}
        return step_report(WikiReport, _NAME, counts, work, outputs, config.read.max_errors, **more)

    return Job(
        name=_NAME,
        output=output,
        key=[plain(config.text), config.min_chars, config.punctuation, config.read.on_error],
        phases=[
            Map(
                name=_NAME,
                source=source,
                make=partial(_make, config, source.sites),
                streams={"out": output, "rejects": rejects_path},
            )
        ],
        outputs=outputs,
        report=report,
    )


def wiki(
    inputs: Sequence[str | Path],
    output: Path,
    config: WikiConfig | None = None,
    reporter: Reporter = SILENT,
    *,
    rejects: Path | None = None,
) -> WikiReport:
    """Write the articles of dumps to `output`.

    Args:
        rejects: for pages that are not well-formed and articles that are too short; default `OUTPUT.rejects.jsonl`,
            made when there is something to put into it.

    Raises:
        MccError: a dump is missing, cut off, damaged, or has no article.
    """
    config = config or WikiConfig()
    return run(wiki_job(inputs, output, config, rejects), config.workers, reporter)


def _make(config: WikiConfig, sites: Mapping[str, Site], work: Work) -> Callable[[Block, Part], None]:
    uniform = _punctuation(config)

    def apply(block: Block, out: Part) -> None:
        site = sites[block.path]
        for page in pages(block):
            out.counts["pages"] += 1
            if isinstance(page, BadPage):
                out.bad_line(page.where, page.reason, page.source, config.read)
                continue
            if page.redirect or page.namespace != "0":
                out.counts["redirects"] += page.redirect
                continue
            record = article(page, site, config.text)
            text = record["text"] = uniform(record["text"])
            out.counts["documents_in"] += 1
            out.counts["chars_in"] += len(page.text)
            if len(text) < config.min_chars:
                reason = f"{len(text)} characters, fewer than {config.min_chars}"
                out.reject(record, "short", reason, f"{block.path}: page {page.title!r}")
                continue
            out.keep(record, len(text))

    return apply


def _punctuation(config: WikiConfig) -> Callable[[str], str]:
    if not config.punctuation:
        return str
    from mcc.data.filters.punctuation import Punctuation

    return Punctuation().keep
