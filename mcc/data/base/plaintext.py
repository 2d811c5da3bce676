"""Plain text cut into documents, one line at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# WikiText writes titles as ` = Title = `; sections have `= =` inside.
_TITLE = re.compile(r"^ ?= [^=].*[^=] = ?$")
_SEPARATORS = {"<|endoftext|>", "\f"}
# Without any mark, paragraphs are gathered until a document has this many characters.
_DOCUMENT_CHARS = 2000


def split_documents(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Documents of a plain text, each with the number of its first line.

    A document begins at a WikiText title line, after a line `<|endoftext|>`, after a form feed or after two blank
    lines; where none of these comes, at the first blank line after 2,000 characters.

    >>> [text for _, text in split_documents(enumerate(["one", "", "still", "", "", "two"], 1))]
    ['one\\n\\nstill', 'two']
    """
    block: list[str] = []
    start = chars = blank = 0
    for number, line in lines:
        mark = line.strip(" \t") in _SEPARATORS or line.startswith("\f")
        line = line.lstrip("\f") if line.startswith("\f") else line
        if mark or _TITLE.match(line) or blank >= 2 or (blank and chars >= _DOCUMENT_CHARS and line.strip()):
            if chars:
                yield start, _join(block)
            block, chars = [], 0
        if mark and line.strip(" \t") in _SEPARATORS:
            line = ""
        blank = 0 if line.strip() else blank + 1
        if not chars:
            if blank:
                continue
            start = number
        block.append(line)
        chars += len(line)
    if chars:
        yield start, _join(block)


def pack(paragraphs: Iterable[str], low: int, high: int) -> Iterator[str]:
    """Paragraphs gathered into texts of `low` .. `high` characters, where their lengths allow it.

    A text ends before the paragraph that would take it past `high`; what is left below `low` at the end joins the
    last text.

    >>> list(pack(["aaaa", "bb", "cccc", "d"], low=3, high=8))
    ['aaaa\\n\\nbb', 'cccc\\n\\nd']
    """
    block: list[str] = []
    chars = 0
    ready: str | None = None
    for paragraph in paragraphs:
        if block and chars + 2 + len(paragraph) > high:
            if ready is not None:
                yield ready
            ready, block, chars = "\n\n".join(block), [], 0
        chars += len(paragraph) + (2 if block else 0)
        block.append(paragraph)
    rest = "\n\n".join(block)
    if ready is not None and len(rest) < low:
        yield f"{ready}\n\n{rest}" if rest else ready
        return
    if ready is not None:
        yield ready
    if rest:
        yield rest


def _join(block: list[str]) -> str:
    return "\n".join(line.rstrip() for line in block).strip()
