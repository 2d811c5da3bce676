"""MediaWiki markup to plain text in one pass: what a reader would read aloud stays, the machinery goes.

Gone: templates, tables, references, files, categories, mathematics, comments, tags. Kept as text: paragraphs, links,
list items (one line each), headings, and the templates that only dress up text (quantities, foreign words).
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from mcc.core.config import option


@dataclass(frozen=True, kw_only=True)
class WikitextConfig:
    """What of an article is kept besides its paragraphs."""

    lists: bool = option(True, "keep list items, one line each")
    headings: Literal["keep", "drop"] = option("keep", "keep section headings as lines, or drop them")


# Names of the namespaces whose links show no text. A dump adds the names of its own language.
FILE_NAMES = frozenset({"file", "image", "media"})
CATEGORY_NAMES = frozenset({"category"})

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_NOWIKI = re.compile(r"<nowiki\s*>((?:(?!<nowiki).)*?)</nowiki\s*>|<nowiki\s*/>", re.DOTALL | re.IGNORECASE)
# The text between these tags is not prose.
_DROPPED = re.compile(
    r"<(/?)(ref|references|math|chem|gallery|timeline|imagemap|score|hiero|syntaxhighlight|source|graph|mapframe)"
    r"\b[^<>]*?(/?)>",
    re.IGNORECASE,
)
_BREAK = re.compile(r"<(?:br|hr|/?p|/?li|/?div|/?blockquote)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>]*)?/?>")
# A table's `|}` is not the end `|}}` of a template whose last argument is empty.
_TOKEN = re.compile(r"\{\{|\}\}|\[\[|\]\]|^[ :*#;]*\{\|(?!\})|^[ \t]*\|\}(?!\})", re.MULTILINE)
# The look-aheads keep an address without an end from being tried at each of its letters.
_EXTERNAL = re.compile(
    r"\[(?:https?:|ftp:|mailto:|news:)?//[^\s\[\]]*(?![^\s\[\]])[ \t]*(?![ \t])([^\[\]\n]*)\]"
    r"|\[mailto:[^\s\[\]]+ ([^\[\]\n]*)\]"
)
_QUOTES = re.compile(r"'{2,5}")
# Deeper than any page nests; marks beyond are dropped, so that a page of nothing but marks stays quick.
_MAX_DEPTH = 100
_MAGIC = re.compile(r"__[A-Z]{3,}__")
_NAMED = re.compile(r"\s*[a-zA-Z][\w-]*\s*=")
_NUMBERED = re.compile(r"^\d+\s*=\s*")
_LANGUAGE_LINK = re.compile(r"^[a-z]{2,3}(?:-[a-z]+)?$")
_EMPTY_PARENTHESES = re.compile(r"\(\s*(?:[,;:/–-]\s*)*\)")
_OPEN_PARENTHESIS = re.compile(r"\(\s*(?:[,;]\s*)+")
_ODD_SPACES = "\t\u00a0\u2009\u202f"
_SPACES = re.compile(r"  +")
_COMMAS = re.compile(r",(?:\s*,)+")
_SPACE_BEFORE = re.compile(r" (?=[,;)]|\.(?![\w.]))")
_LEFTOVER = re.compile(r"\{\{+|\}\}+|\{\||\|\}|\[\[|\]\]|</?ref[^>\n]*>?", re.IGNORECASE)


def clean(
    text: str,
    config: WikitextConfig | None = None,
    *,
    files: Collection[str] = FILE_NAMES,
    categories: Collection[str] = CATEGORY_NAMES,
) -> str:
    """The plain text of an article.

    Args:
        text: wikitext, as it stands in a dump after XML's own escapes are undone.
        files, categories: lower-case names of the namespaces whose links are dropped.

    >>> clean("'''Ada''' ([[10 December]]<ref>x</ref> 1815) was a [[Mathematics|mathematician]].{{refs}}")
    'Ada (10 December 1815) was a mathematician.'
    >>> clean("== Works ==\\n* one\\n* [[File:a.png|thumb|[[two]]]]two {{convert|3|km|mi}} long")
    'Works\\n\\n- one\\n- two 3 km long'
    """
    config = config or WikitextConfig()
    if "<" in text:
        text = _COMMENT.sub("", text)
        text = _NOWIKI.sub(lambda found: html.escape(found[1] or "").replace("[", "&#91;").replace("{", "&#123;"), text)
        text = _without_elements(text)
    text = _resolve(text, frozenset(files), frozenset(categories))
    text = _EXTERNAL.sub(lambda found: found[1] or found[2] or "", text)
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub("\n", text))
    text = _MAGIC.sub("", _QUOTES.sub("", text))
    text = html.unescape(text)
    for space in _ODD_SPACES:
        text = text.replace(space, " ")
    text = _OPEN_PARENTHESIS.sub("(", _EMPTY_PARENTHESES.sub("", text))
    # By a space: what stands on both sides must not become a mark.
    text = _LEFTOVER.sub(" ", text)
    text = _COMMAS.sub(",", _SPACE_BEFORE.sub("", _SPACES.sub(" ", text)))
    return _lines(text, config)


def _without_elements(text: str) -> str:
    """`text` without references, formulas and the like. One that never ends takes the rest of its line only."""
    tags = list(_DROPPED.finditer(text))
    if not tags:
        return text
    last_end = {tag[2].lower(): tag.start() for tag in tags if tag[1]}
    pieces: list[str] = []
    position = 0
    inside: str | None = None
    for tag in tags:
        name = tag[2].lower()
        if tag.start() < position:
            continue
        if inside is not None:
            if tag[1] and name == inside:
                inside, position = None, tag.end()
            continue
        pieces.append(text[position : tag.start()])
        position = tag.end()
        if tag[1] or tag[3]:
            continue
        if last_end.get(name, -1) > tag.start():
            inside = name
        else:
            line_end = text.find("\n", position)
            position = len(text) if line_end < 0 else line_end
    pieces.append(text[position:])
    return "".join(pieces)


def _resolve(text: str, files: frozenset[str], categories: frozenset[str]) -> str:
    """`text` with templates, tables and links replaced by what they show. Innermost first, each character once."""
    pieces: list[str] = []
    # What is open: its kind ("{{", "[[" or "{|") and the pieces of the text around it.
    stack: list[tuple[str, list[str]]] = []
    open_now = {"{{": 0, "[[": 0, "{|": 0}
    position = 0

    def close() -> None:
        nonlocal pieces
        kind, around = stack.pop()
        open_now[kind] -= 1
        inside = "".join(pieces)
        if kind == "[[":
            around.append(_link(inside, files, categories))
        elif kind == "{{":
            around.append(_template(inside))
        pieces = around

    def give_up() -> None:
        """Close what has no end: a link is its text, a template or table ends at the next blank line."""
        nonlocal pieces
        kind, around = stack.pop()
        open_now[kind] -= 1
        inside = "".join(pieces)
        around.append(inside if kind == "[[" else inside.partition("\n\n")[2])
        pieces = around

    for found in _TOKEN.finditer(text):
        token = found[0].lstrip(" :*#;\n\t")
        pieces.append(text[position : found.start()])
        position = found.end()
        if token in open_now:
            if len(stack) < _MAX_DEPTH:
                stack.append((token, pieces))
                open_now[token] += 1
                pieces = []
            continue
        opening = {"}}": "{{", "]]": "[[", "|}": "{|"}[token]
        # A stray `]]` inside a template does not end a link around the template; a link ends with its template.
        while open_now[opening] and stack[-1][0] != opening and (token != "]]" or stack[-1][0] == "[["):
            give_up()
        if stack and stack[-1][0] == opening:
            close()
    pieces.append(text[position:])
    while stack:
        give_up()
    return "".join(pieces)


def _link(inside: str, files: frozenset[str], categories: frozenset[str]) -> str:
    """What `[[inside]]` shows."""
    target, bar, label = inside.partition("|")
    target = target.strip()
    if "\n\n" in target:
        return inside
    if target.startswith(":"):
        target = target[1:]
    else:
        space = target.partition(":")[0].strip().lower() if ":" in target else ""
        if space in files or space in categories:
            return ""
        if space and not bar and _LANGUAGE_LINK.match(space) and target.partition(":")[0].islower():
            return ""
    if bar:
        # Without a label the reader sees the title without its parenthesis or namespace.
        return label if label.strip() else _without_parenthesis(target.rpartition(":")[2])
    prefix, colon, rest = target.partition(":")
    return rest if colon and prefix.lower() in {"wikt", "wiktionary", "s", "wikisource", "w"} else target


def _without_parenthesis(title: str) -> str:
    """`Mercury (planet)` -> `Mercury`."""
    begin = title.rfind("(")
    return title[:begin].rstrip() if begin >= 0 and title.find(")", begin) == len(title) - 1 else title


def _template(inside: str) -> str:
    """What `{{inside}}` shows: nothing, unless it is known to only dress up its argument."""
    name, _, rest = inside.partition("|")
    show = _SHOWN.get(name.strip().lower().replace("_", " "))
    if show is None:
        return ""
    positional = [part.strip() for part in rest.split("|") if not _NAMED.match(part)] if rest else []
    # `1=text` is how an argument with an equals sign is written.
    positional = [_NUMBERED.sub("", part) for part in positional]
    return show(positional)


def _at(i: int) -> Callable[[list[str]], str]:
    return lambda values: values[i] if len(values) > i else ""


def _last(values: list[str]) -> str:
    return values[-1] if values else ""


def _convert(values: list[str]) -> str:
    """`10|km|mi` -> `10 km`, `10|to|20|km` -> `10 to 20 km`."""
    if len(values) < 2:
        return _last(values)
    joins = {"-": "–", "–": "–", "to": " to ", "and": " and ", "or": " or ", "x": " × ", "by": " by ", "+/-": " ± "}
    shown = values[0]
    rest = values[1:]
    while len(rest) >= 3 and rest[0] in joins:
        shown += joins[rest[0]] + rest[1]
        rest = rest[2:]
    return f"{shown} {rest[0]}"


_SHOWN: dict[str, Callable[[list[str]], str]] = {
    **dict.fromkeys(("convert", "cvt"), _convert),
    **dict.fromkeys(("lang", "transl", "transliteration", "script", "langx"), _last),
    **dict.fromkeys(
        (
            *("nowrap", "small", "smaller", "big", "larger", "nobold", "vanchor", "nihongo", "angbr", "sic", "flag"),
            *(
                "mono",
                "code",
                "em",
                "strong",
                "abbr",
                "tooltip",
                "nts",
                "formatnum",
                "val",
                "sup",
                "sub",
                "mvar",
                "var",
            ),
            *("quote", "blockquote", "cquote", "quotation", "bquote", "center"),
        ),
        _at(0),
    ),
    **dict.fromkeys(("as of", "as of?"), lambda values: "As of " + " ".join(values)),
    **dict.fromkeys(("nbsp", "space", "pad", "thinsp"), lambda values: " "),
    **dict.fromkeys(("ndash", "spaced ndash", "snd", "en dash"), lambda values: " – "),
    **dict.fromkeys(("mdash", "em dash", "spd"), lambda values: " — "),
    **dict.fromkeys(("·", "•", "dot", "bullet"), lambda values: " · "),
    **dict.fromkeys(("hlist", "unbulleted list", "ubl"), ", ".join),
    # What they hold is a list already; it begins on a line of its own.
    **dict.fromkeys(("plainlist", "flatlist", "columns-list", "columns list"), lambda v: "\n" + _last(v)),
    "pipe": lambda values: "|",
    "'": lambda values: "'",
    **dict.fromkeys(("circa", "c.", "c"), lambda values: f"c. {values[0]}" if values else "c."),
}


def _lines(text: str, config: WikitextConfig) -> str:
    """Lines of text: list marks made uniform, headings without a section dropped, blank lines single."""
    out: list[str] = []
    waiting: list[tuple[int, str]] = []  # headings whose section has had no text yet

    def put(line: str, loose: bool) -> None:
        for _, title in waiting:
            _append(out, title, True)
        waiting.clear()
        _append(out, line, loose)

    blank = True
    for line in text.split("\n"):
        stripped = line.strip()
        if not stripped or stripped.startswith("----"):
            blank = True
            continue
        level, title = _heading(stripped)
        if level:
            while waiting and waiting[-1][0] >= level:
                waiting.pop()
            if config.headings == "keep":
                waiting.append((level, title))
            blank = True
            continue
        if stripped[0] in "*#;:":
            item = stripped.lstrip("*#;: ")
            marks = stripped[: len(stripped) - len(item)]
            if not item or not config.lists:
                continue
            stripped = f"- {item}" if "*" in marks or "#" in marks else item
        elif stripped[0] in "|!" and len(stripped) > 1:
            continue  # a row of a table whose beginning was lost
        elif not any(character.isalnum() for character in stripped):
            continue
        put(stripped, blank)
        blank = bool(waiting)
    return "\n".join(out)


def _heading(line: str) -> tuple[int, str]:
    """Level and title of `== Title ==`; level 0 when it is none."""
    if not (line.startswith("=") and line.endswith("=") and len(line) > 2):
        return 0, ""
    level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
    title = line[level:-level].strip()
    return (level, title) if title else (0, "")


def _append(out: list[str], line: str, loose: bool) -> None:
    if loose and out:
        out.append("")
    out.append(line)
