"""MediaWiki dumps cut into blocks of whole pages.

Plain and bzip2 files are cut at fixed bytes without being read: the process that gets a block reads, decompresses and
parses the pages that begin in it, however far the last one reaches. Gzip and zstandard can only be read from the start:
there the blocks hold the XML itself.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mcc.core.errors import MccError, UsageError
from mcc.data.base.blocks import Block, Source
from mcc.data.base.records import DUMP
from mcc.data.base.streams import content_suffix, expand, open_input, telling_damage
from mcc.data.mediawiki.bzip2 import Bzip2Reader, check_ends
from mcc.data.mediawiki.wikitext import CATEGORY_NAMES, FILE_NAMES

# Blocks of a bzip2 file are so much smaller on the disk: they hold about four times as much XML.
_BZIP2_SHARE = 2
# So much XML is parsed at once.
_CHUNK_BYTES = 4 << 20
_PIECE_BYTES = 1 << 20
# The description of the wiki before the first page, and the end of the dump, are no longer than this.
_HEAD_BYTES = 1 << 20
_TAIL_BYTES = 1 << 16
_FILE_KEY, _CATEGORY_KEY = "6", "14"
_OPEN, _CLOSE, _END = b"<page>", b"</page>", b"</mediawiki>"
_ROOT = re.compile(rb"<([A-Za-z_][\w:.-]*)")
_TITLE = re.compile(rb"<title>([^<]*)</title>")


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a dump says about its wiki.

    Args:
        base: of the articles' addresses.
        files, categories: lower-case names of the namespaces whose links show no text.
    """

    base: str = "https://en.wikipedia.org/wiki/"
    files: frozenset[str] = FILE_NAMES
    categories: frozenset[str] = CATEGORY_NAMES


@dataclass(frozen=True)
class Page:
    """One page as it stands in the dump; `text` is wikitext."""

    id: str
    title: str
    namespace: str
    redirect: bool
    text: str


@dataclass(frozen=True)
class BadPage:
    """A page that is not well-formed XML: where it is, why, and its source."""

    where: str
    reason: str
    source: bytes


class DumpSource(Source):
    """The pages of MediaWiki dumps in order.

    Args:
        inputs: `.xml`, also as `.bz2`, `.gz`, `.zst`; glob patterns.
        block_bytes: of a block, about; a block of a bzip2 file is half as long on the disk.

    Attributes:
        sites: what each file says about its wiki.

    Raises:
        MccError: a file is missing, cut off, or no MediaWiki dump.
        UsageError: a name's ending is not `.xml`.
    """

    def __init__(self, inputs: Sequence[str | Path], block_bytes: int = 4 << 20) -> None:
        self.paths = expand(inputs, "dump")
        self._bytes = block_bytes
        for path in self.paths:
            if content_suffix(path) not in DUMP:
                raise UsageError(f"{path} is not a MediaWiki dump", "give .xml, .xml.bz2, .xml.gz or .xml.zst")
        self.sites = {str(path): _read_head(path) for path in self.paths}
        for path in self.paths:
            _check_tail(path)
        self._ends = list(accumulate(self._units_of(path) for path in self.paths))

    def _block_bytes(self, path: Path) -> int:
        return max(self._bytes // _BZIP2_SHARE, 1) if path.suffix.lower() == ".bz2" else self._bytes

    def _units_of(self, path: Path) -> int:
        if path.suffix.lower() in (".gz", ".zst"):
            return 1
        return max(-(-path.stat().st_size // self._block_bytes(path)), 1)

    def units(self) -> int:
        """One for every `block_bytes` of a plain or bzip2 file; any other file is one."""
        return self._ends[-1]

    def blocks(self, unit: int) -> Iterator[Block]:
        """A block without data that says which bytes to read, or several with XML."""
        file = bisect_right(self._ends, unit)
        path = self.paths[file]
        if path.suffix.lower() in (".gz", ".zst"):
            yield from _stream_blocks(path, unit)
            return
        begin = (unit - (self._ends[file - 1] if file else 0)) * self._block_bytes(path)
        end = min(begin + self._block_bytes(path), path.stat().st_size)
        yield Block(path=str(path), unit=unit, numbers=(begin, end), size=end - begin)

    def key(self) -> Any:
        """The files, and how they are cut."""
        return [super().key(), self._bytes]

    def check(self, counts: Mapping[str, int]) -> None:
        """A dump without articles was not meant."""
        if not counts.get("documents_in") and not counts.get("bad_lines"):
            names = ", ".join(str(path) for path in self.paths[:3])
            more = f" and {len(self.paths) - 3} more files" if len(self.paths) > 3 else ""
            raise MccError(f"no articles in {names}{more}", "give a pages-articles dump")


def pages(block: Block) -> Iterator[Page | BadPage]:
    """The pages that begin in a block.

    Raises:
        MccError: the file is damaged or cut off there.
    """
    for place, xml in _chunks(block):
        yield from _parse(block.path, place, xml)


def _chunks(block: Block) -> Iterator[tuple[str, bytes]]:
    """Whole pages, about 4 MB at a time, and where they are."""
    path = Path(block.path)
    if block.data:
        yield f"byte {block.line:,} of the XML", block.data
        return
    begin, end = block.numbers or (0, 0)
    place = f"byte {begin:,} of the file"
    try:
        if path.suffix.lower() == ".bz2":
            with Bzip2Reader(path, begin) as reader:
                for _, xml in whole_pages(_own_blocks(reader, end), iter(reader.read, b"")):
                    yield f"the compressed block after {place}", xml
        else:
            with path.open("rb") as file:
                file.seek(begin)
                more = iter(lambda: file.read(_PIECE_BYTES // 16), b"")
                own = (file.read(min(_PIECE_BYTES, end - at)) for at in range(begin, end, _PIECE_BYTES))
                for offset, xml in whole_pages(own, more):
                    yield f"byte {begin + offset:,}", xml
    except EOFError as error:
        raise MccError(f"{path}: cut off: {error}, which begins after {place}", "get the dump again") from error


def _own_blocks(reader: Bzip2Reader, end: int) -> Iterator[bytes]:
    while (place := reader.place()) is not None and place < end:
        yield reader.read()


def whole_pages(own: Iterator[bytes], more: Iterator[bytes] | None = None) -> Iterator[tuple[int, bytes]]:
    """The pages that begin in `own`, some MB at a time, with their offset from its beginning.

    What stands before the first `<page>` belongs to somebody else. Of `more` only so much is taken as the last page
    needs.

    >>> list(whole_pages(iter([b"a</page><page>b</page> <pa"]), iter([b"ge>c</page><page>d"])))
    [(8, b'<page>b</page> <page>c</page>')]

    Raises:
        EOFError: the last page has no end.
    """
    buffer = bytearray()
    offset = searched = 0  # of the buffer's beginning; up to where no page ends
    for piece in own:
        buffer += piece
        if len(buffer) < _CHUNK_BYTES:
            continue
        close = buffer.rfind(_CLOSE, searched)
        searched = max(len(buffer) - len(_CLOSE), 0)
        if close >= 0:
            end = close + len(_CLOSE)
            first = buffer.find(_OPEN, 0, end)
            if first >= 0:
                yield offset + first, bytes(buffer[first:end])
            del buffer[:end]
            offset += end
            searched = 0
    own_end = len(buffer)
    while True:
        last = buffer.rfind(_OPEN, 0, own_end + len(_OPEN) - 1)
        close = buffer.find(_CLOSE, last) if last >= 0 else -1
        if not (last >= 0 > close or (len(buffer) == own_end and _begins_a_page(buffer))):
            break
        piece = next(more, b"") if more is not None else b""
        if not piece:
            if last >= 0 > close:
                title = _TITLE.search(buffer, last)
                raise EOFError(f"the page {title[1].decode(errors='replace')!r}" if title else "a page")
            break
        buffer += piece
    if last >= 0:
        first = buffer.find(_OPEN)
        yield offset + first, bytes(buffer[first : close + len(_CLOSE)])


def _begins_a_page(buffer: bytearray) -> bool:
    """Whether the last bytes may be the beginning of a `<page>`."""
    return any(buffer.endswith(_OPEN[:length]) for length in range(1, len(_OPEN)))


def _stream_blocks(path: Path, unit: int) -> Iterator[Block]:
    """A file that can only be read from its start."""
    tail = b""

    def pieces() -> Iterator[bytes]:
        nonlocal tail
        with path.open("rb") as raw:
            stream: Any = open_input(path, raw)
            while piece := stream.read1(_PIECE_BYTES):
                tail = (tail + piece)[-_TAIL_BYTES:]
                yield bytes(piece)

    title = ""
    with telling_damage(path, lambda: f"after the page {title!r}" if title else "before any page"):
        try:
            for part, (offset, xml) in enumerate(whole_pages(pieces())):
                yield Block(path=str(path), unit=unit, part=part, line=offset, held=xml)
                title = _last_title(xml)
        except EOFError as error:
            after = f"after the page {title!r}" if title else "before any page has ended"
            what = f"it ends within {error}, {after}" if str(error).startswith(("the page", "a page")) else after
            raise MccError(f"{path}: truncated: {what}", "get the dump again") from error
    if not tail.rstrip().endswith(_END):
        raise _cut_off(path, tail)


def _last_title(xml: bytes) -> str:
    begin = xml.rfind(b"<title>")
    found = _TITLE.match(xml, begin) if begin >= 0 else None
    return found[1].decode(errors="replace") if found else ""


def _read_head(path: Path) -> Site:
    """What stands before the first page.

    Raises:
        MccError: it is not the beginning of a dump.
    """
    head = b""
    with telling_damage(path, lambda: "before any page"):
        if path.suffix.lower() == ".bz2":
            check_ends(path)
            with Bzip2Reader(path) as reader:
                while _OPEN not in head and len(head) < _HEAD_BYTES and (piece := reader.read()):
                    head += piece
        else:
            with path.open("rb") as raw:
                stream: Any = open_input(path, raw)
                while _OPEN not in head and len(head) < _HEAD_BYTES and (piece := stream.read1(_PIECE_BYTES // 16)):
                    head += piece
    if not head.strip():
        raise MccError(f"{path}: empty", "give a pages-articles dump")
    root = _ROOT.search(head)
    if root is None or root[1].rpartition(b":")[2] != b"mediawiki":
        found = f"its root is <{root[1].decode()}>" if root else "there is no XML at its beginning"
        raise MccError(f"{path}: not a MediaWiki dump: {found}", "give a pages-articles dump")
    return _site(path, head.partition(_OPEN)[0])


def _site(path: Path, head: bytes) -> Site:
    if b"<siteinfo" not in head:
        return Site()
    begin, end = head.index(b"<siteinfo"), head.find(b"</siteinfo>")
    try:
        if end < 0:
            raise ElementTree.ParseError("siteinfo has no end")
        info = ElementTree.fromstring(head[begin : end + len(b"</siteinfo>")])
    except ElementTree.ParseError as error:
        raise MccError(f"{path}: not well-formed XML before any page: {error}", "get the dump again") from error
    base = Site().base
    files, categories = set(FILE_NAMES), set(CATEGORY_NAMES)
    for child in info.iter():
        text = child.text or ""
        if child.tag == "base" and "/" in text:
            base = text.rpartition("/")[0] + "/"
        elif child.tag == "namespace" and child.get("key") == _FILE_KEY:
            files.add(text.lower())
        elif child.tag == "namespace" and child.get("key") == _CATEGORY_KEY:
            categories.add(text.lower())
    return Site(base=base, files=frozenset(files - {""}), categories=frozenset(categories - {""}))


def _check_tail(path: Path) -> None:
    """Refuse a file that was cut off before hours are spent on it; of gzip and zstandard the end is not known yet.

    Raises:
        MccError: the dump does not end as dumps do.
    """
    suffix = path.suffix.lower()
    if suffix in (".gz", ".zst"):
        return
    if suffix == ".bz2":
        tail = check_ends(path)
    else:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            tail = file.read()
    if not tail.rstrip().endswith(_END):
        raise _cut_off(path, tail)


def _cut_off(path: Path, tail: bytes) -> MccError:
    title = _last_title(tail)
    last = f"; the last page that begins is {title!r}" if title else ""
    size = path.stat().st_size
    return MccError(f"{path}: cut off at byte {size:,}: it does not end with </mediawiki>{last}", "get the dump again")


def _parse(path: str, place: str, xml: bytes) -> Iterator[Page | BadPage]:
    try:
        root = ElementTree.fromstring(b"<mediawiki>" + xml + b"</mediawiki>")
    except ElementTree.ParseError:
        yield from _one_by_one(path, place, xml)
        return
    for element in root:
        if element.tag == "page":
            yield _page(element)


def _one_by_one(path: str, place: str, xml: bytes) -> Iterator[Page | BadPage]:
    """Pages of which at least one is not well-formed."""
    for piece in xml.split(_CLOSE)[:-1]:
        source = piece.lstrip() + _CLOSE
        title = _last_title(source)
        where = f"{path}: page {title!r}" if title else f"{path}: a page at or after {place}"
        try:
            element = ElementTree.fromstring(source)
            if element.tag != "page":
                raise ElementTree.ParseError(f"<{element.tag}> where a page should begin")
        except ElementTree.ParseError as error:
            yield BadPage(where, f"not well-formed XML: {error} of the page", source)
        else:
            yield _page(element)


def _page(element: ElementTree.Element) -> Page:
    values = {"id": "", "title": "", "ns": "0"}
    text = ""
    redirect = False
    for child in element:
        if child.tag == "redirect":
            redirect = True
        elif child.tag == "revision":
            # Of several revisions the last one counts.
            text = child.findtext("text", text)
        elif child.tag in values:
            values[child.tag] = child.text or ""
    redirect = redirect or text.lstrip()[:9].upper() == "#REDIRECT"
    return Page(values["id"], values["title"], values["ns"], redirect, text)


def read_pages(source: DumpSource) -> Iterator[Page]:
    """The pages of dumps, one after the other, in one process.

    Raises:
        MccError: a dump is damaged.
    """
    for unit in range(source.units()):
        for block in source.blocks(unit):
            for page in pages(block):
                if isinstance(page, BadPage):
                    raise MccError(f"{page.where}: {page.reason}", "get the dump again")
                yield page
