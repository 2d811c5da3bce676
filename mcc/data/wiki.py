"""MediaWiki dumps (`pages-articles`) to documents: one article at a time, whatever the size of the dump."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote
from xml.etree import ElementTree

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.documents import DUMP, Record
from mcc.data.step import RecordWriter, StepReport
from mcc.data.streams import broken, content_suffix, expand, open_input
from mcc.data.wikitext import CATEGORY_NAMES, FILE_NAMES, WikitextConfig, clean

_FILE_KEY, _CATEGORY_KEY = "6", "14"
_DEFAULT_BASE = "https://en.wikipedia.org/wiki/"


@dataclass(frozen=True, kw_only=True)
class WikiConfig:
    """How articles become text."""

    text: WikitextConfig = field(default_factory=WikitextConfig)
    min_chars: int = option(1, "articles whose text is shorter are dropped")


@dataclass(frozen=True, kw_only=True)
class WikiReport(StepReport):
    """`documents_in` are articles; `pages` counts redirects and other namespaces too."""

    pages: int
    redirects: int


@dataclass
class Site:
    """What a dump says about its wiki."""

    base: str = _DEFAULT_BASE
    files: set[str] = field(default_factory=lambda: set(FILE_NAMES))
    categories: set[str] = field(default_factory=lambda: set(CATEGORY_NAMES))


@dataclass(frozen=True)
class Page:
    """One page as it stands in the dump."""

    id: str
    title: str
    namespace: str
    redirect: bool
    text: str


class Dump:
    """Iterates over the pages of one dump.

    Args:
        path: `.xml`, also as `.bz2`, `.gz`, `.zst`.

    Attributes:
        site: filled when the dump's head has been read.

    Raises:
        MccError: the file is missing, damaged or not XML; says where.
        UsageError: its ending is not `.xml`.
    """

    def __init__(self, path: str | Path) -> None:
        (self.path,) = expand([path], "dump")
        if content_suffix(self.path) not in DUMP:
            raise UsageError(f"{self.path} is not a MediaWiki dump", "give .xml, .xml.bz2 or .xml.gz")
        self.site = Site()

    def __iter__(self) -> Iterator[Page]:
        pages = 0
        title = ""
        try:
            with open_input(self.path) as stream:
                for page in self._pages(stream):
                    yield page
                    pages, title = pages + 1, page.title
        except ElementTree.ParseError as error:
            line, column = error.position
            after = f"after {pages} pages, the last {title!r}" if pages else "before any page"
            raise MccError(
                f"{self.path}:{line}:{column}: not well-formed XML, {after}: {str(error).partition(':')[0]}",
                "the dump is cut off or damaged: get it again",
            ) from error
        except (EOFError, OSError) as error:
            raise broken(self.path, error, f"after {pages} pages") from error

    def _pages(self, stream: IO[bytes]) -> Iterator[Page]:
        events = ElementTree.iterparse(stream, events=("start", "end"))
        root: ElementTree.Element | None = None
        for event, element in events:
            if root is None:
                root = element
                if _local(root) != "mediawiki":
                    raise MccError(f"{self.path}: not a MediaWiki dump: its root is <{_local(root)}>")
            if event == "start":
                continue
            name = _local(element)
            if name == "siteinfo":
                self._read_site(element)
            elif name == "page":
                yield _page(element)
                root.clear()  # else the tree of the whole dump stays in memory

    def _read_site(self, element: ElementTree.Element) -> None:
        for child in element.iter():
            name, text = _local(child), child.text or ""
            if name == "base" and "/" in text:
                self.site.base = text.rpartition("/")[0] + "/"
            elif name == "namespace" and child.get("key") == _FILE_KEY:
                self.site.files.add(text.lower())
            elif name == "namespace" and child.get("key") == _CATEGORY_KEY:
                self.site.categories.add(text.lower())


def _local(element: ElementTree.Element) -> str:
    """The tag without its XML namespace, which changes with every version of the format."""
    return element.tag.rpartition("}")[2]


def _page(element: ElementTree.Element) -> Page:
    values = {"id": "", "title": "", "ns": "0", "text": ""}
    redirect = False
    for child in element:
        name = _local(child)
        if name == "redirect":
            redirect = True
        elif name == "revision":
            # Of several revisions the last one counts.
            values["text"] = next((part.text or "" for part in child if _local(part) == "text"), values["text"])
        elif name in values:
            values[name] = child.text or ""
    redirect = redirect or values["text"].lstrip()[:9].upper() == "#REDIRECT"
    return Page(values["id"], values["title"], values["ns"], redirect, values["text"])


def article(page: Page, site: Site, config: WikitextConfig | None = None) -> Record:
    """The record `{id, url, title, text}` of an article."""
    url = site.base + quote(page.title.replace(" ", "_"), safe="/:@!$*(),;'")
    text = clean(page.text, config, files=site.files, categories=site.categories)
    return {"id": page.id, "url": url, "title": page.title, "text": text}


def read_articles(path: str | Path, config: WikiConfig | None = None) -> Iterator[Record]:
    """The articles of a dump as records; redirects and other namespaces are left out."""
    config = config or WikiConfig()
    dump = Dump(path)
    for page in dump:
        if page.namespace == "0" and not page.redirect:
            record = article(page, dump.site, config.text)
            if len(record["text"]) >= config.min_chars:
                yield record


def wiki(
    inputs: Sequence[str | Path], output: Path, config: WikiConfig | None = None, reporter: Reporter = SILENT
) -> WikiReport:
    """Write the articles of dumps to `output`.

    Raises:
        MccError: a dump is missing, damaged, or has no article.
    """
    config = config or WikiConfig()
    dumps = [Dump(path) for path in expand(inputs, "dump")]
    started = time.perf_counter()
    pages = redirects = articles = kept = chars_in = chars_out = short = 0
    with RecordWriter(output) as writer, reporter.task("wiki", unit="pages") as task:
        for dump in dumps:
            for page in dump:
                pages += 1
                task.advance()
                if page.redirect or page.namespace != "0":
                    redirects += page.redirect
                    continue
                articles += 1
                record = article(page, dump.site, config.text)
                chars_in += len(page.text)
                if len(record["text"]) < config.min_chars:
                    short += 1
                    continue
                kept += 1
                chars_out += len(record["text"])
                writer.write(record)
        if not articles:
            raise MccError(
                f"no articles in {', '.join(str(dump.path) for dump in dumps)}", "give a pages-articles dump"
            )
    return WikiReport(
        step="wiki",
        documents_in=articles,
        documents_out=kept,
        chars_in=chars_in,
        chars_out=chars_out,
        rejected={"short": short} if short else {},
        seconds=round(time.perf_counter() - started, 3),
        outputs=(str(output),),
        pages=pages,
        redirects=redirects,
    )
