"""What a dump's articles show, by mwparserfromhell (MIT): run with the Python of an environment that has it.

Gives a line of JSON for every article: its title, its paragraphs and its list items, each as the pieces of visible
text between what is not shown (templates, references, files, ...). Pieces are lower case, letters and digits only.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from xml.etree import ElementTree

import mwparserfromhell

GAP, HEADING = "\x00", "\x01"
UNSEEN = {"ref", "references", "math", "chem", "gallery", "timeline", "imagemap", "score", "hiero", "table"}
UNSEEN |= {"syntaxhighlight", "source", "graph", "mapframe"}
BLOCKS = {"br", "hr", "p", "div", "blockquote", "li"}
HIDDEN_LINK = re.compile(r"(?:file|image|media|category):|[a-z]{2,3}(?:-[a-z]+)?:", re.IGNORECASE)


def visible(code: mwparserfromhell.wikicode.Wikicode) -> str:
    """The text of parsed wikitext, with a mark for what is not shown."""
    return "".join(map(_node, code.nodes))


def _node(node: mwparserfromhell.nodes.Node) -> str:
    kind = type(node).__name__
    if kind == "Text":
        return str(node.value)
    if kind == "HTMLEntity":
        return str(node.normalize())
    if kind == "Heading":
        return f"\n{HEADING}{visible(node.title)}\n"
    if kind == "Wikilink":
        title = str(node.title).strip()
        if HIDDEN_LINK.match(title):
            return GAP
        shown = title.lstrip(":") if node.text is None else visible(node.text)
        return shown if shown.strip() else GAP
    if kind == "ExternalLink":
        if node.brackets:
            return GAP if node.title is None else visible(node.title)
        return str(node.url)
    if kind != "Tag":
        return GAP
    tag = str(node.tag).strip().lower()
    if node.wiki_markup and tag in ("li", "dd", "dt"):
        return str(node.wiki_markup)
    if tag in UNSEEN:
        return GAP
    inside = "" if node.contents is None else visible(node.contents)
    return f"\n{inside}\n" if tag in BLOCKS else inside


def plain(text: str) -> str:
    """What is compared of a text."""
    return "".join(character for character in text.lower() if character.isalnum())


def lines(wikitext: str) -> Iterator[tuple[bool, list[str]]]:
    """(is a list item, pieces) of every line that shows something. Rows of tables that it cannot parse are none."""
    for line in visible(mwparserfromhell.parse(wikitext)).split("\n"):
        line = re.sub(r"__[A-Z]+__", "", line).lstrip(" " + GAP)
        if not line or line[0] in HEADING + "|!":
            continue
        pieces = [piece for piece in map(plain, line.lstrip("*#:; ").split(GAP)) if piece]
        if pieces:
            yield line[0] in "*#:;", pieces


def main() -> None:
    for _, element in ElementTree.iterparse(sys.argv[1]):
        if not element.tag.endswith("}page"):
            continue
        found = {part.tag.rpartition("}")[2]: part for part in element.iter()}
        if found["ns"].text == "0" and "redirect" not in found:
            shown = list(lines(found["text"].text or ""))
            items = [pieces for is_item, pieces in shown if is_item]
            paragraphs = [pieces for is_item, pieces in shown if not is_item]
            print(json.dumps({"title": found["title"].text, "items": items, "paragraphs": paragraphs}))
        element.clear()


if __name__ == "__main__":
    main()
