"""A corpus from whatever there is: JSON lines, plain text, MediaWiki dumps, or the text that every Python carries."""

from __future__ import annotations

import ast
import inspect
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from mcc.core.errors import MccError
from mcc.data.base.documents import DUMP, ReadConfig, Reader, Record
from mcc.data.base.plaintext import pack
from mcc.data.base.streams import content_suffix, expand
from mcc.data.wiki import WikiConfig, read_articles

# Folders of the standard library whose docstrings are absent, generated, or about testing Python itself.
_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "__pycache__"}
    | {"lib-dynload", "ensurepip", "encodings"}
)
# Documents of the embedded corpus are gathered and cut to these lengths, in characters.
_LOW_CHARS, _HIGH_CHARS = 500, 5000
# A docstring below this is a label, not text.
_MIN_DOCSTRING_CHARS = 40


def read_corpus(
    paths: Sequence[str | Path], read: ReadConfig | None = None, wiki: WikiConfig | None = None
) -> Iterator[Record]:
    """The documents of files in order, each as a record with a `text`; the ending of a name says how it is read.

    Raises:
        MccError: a file is missing, damaged, or holds a bad line (see `ReadConfig`); there are no documents.
        UsageError: an ending is unknown.
    """
    found = expand(paths, "corpus file")
    readers = {path: Reader([path], read) for path in found if content_suffix(path) not in DUMP}
    count = 0
    for path in found:
        for record in readers[path] if path in readers else read_articles(path, wiki):
            count += 1
            yield record
    if not count:
        raise MccError(f"no documents in {', '.join(map(str, found))}", "give a file with at least one document")


def python_corpus(max_chars: int = 8_000_000) -> Iterator[Record]:
    """The embedded corpus: Python's language reference and its library's docstrings, about 500-5,000 characters each.

    The same Python gives the same documents in the same order. Modules are parsed, never imported.

    Args:
        max_chars: stop before the text grows beyond this.
    """
    total = 0
    for record in _python_documents():
        total += len(record["text"])
        if total > max_chars:
            return
        yield record


def _python_documents() -> Iterator[Record]:
    for name, text in sorted(_topics().items()):
        paragraphs = [part.strip("\n") for part in text.split("\n\n") if part.strip()]
        yield from _documents(f"pydoc:{name}", paragraphs)
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        inner = path.relative_to(library)
        if not _SKIPPED_FOLDERS.intersection(inner.parts) and not inner.name.startswith("_sysconfigdata"):
            name = ".".join(inner.with_suffix("").parts).removesuffix(".__init__")
            yield from _documents(name, list(_docstrings(path)))


def _documents(name: str, paragraphs: list[str]) -> Iterator[Record]:
    for i, text in enumerate(pack(paragraphs, _LOW_CHARS, _HIGH_CHARS)):
        if len(text) >= _LOW_CHARS:
            yield {"id": f"{name}:{i}", "text": text}


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions package it apart; the docstrings remain
        return {}
    return dict(topics)


def _docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a module, in order, each under the name of what it describes."""
    try:
        with warnings.catch_warnings():  # the library's own style is not this run's business
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # files kept broken on purpose, as test material
        return
    module = ast.get_docstring(tree)
    if module and len(module) >= _MIN_DOCSTRING_CHARS:
        yield module
    yield from _members(tree, "")


def _members(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for node in parent.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        text = ast.get_docstring(node, clean=False)
        if text and len(text) >= _MIN_DOCSTRING_CHARS:
            kind = "class " if isinstance(node, ast.ClassDef) else ""
            arguments = "" if isinstance(node, ast.ClassDef) else f"({_arguments(node)})"
            yield f"{kind}{prefix}{node.name}{arguments}\n\n{inspect.cleandoc(text)}"
        if isinstance(node, ast.ClassDef):
            yield from _members(node, f"{prefix}{node.name}.")


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    given = node.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    if given.vararg:
        names.append(f"*{given.vararg.arg}")
    names += [argument.arg for argument in given.kwonlyargs]
    if given.kwarg:
        names.append(f"**{given.kwarg.arg}")
    return ", ".join(name for name in names if name not in ("self", "cls"))
