"""Dumps to documents."""

from __future__ import annotations

import bz2
import gzip
import re
import tracemalloc
from pathlib import Path

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.wiki import Dump, WikiConfig, read_articles, wiki
from mcc.data.wikitext import WikitextConfig
from tests.data.conftest import read

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="de"><siteinfo>
<base>https://de.example.org/wiki/Hauptseite</base>
<namespaces><namespace key="0" /><namespace key="6">Datei</namespace>
<namespace key="14">Kategorie</namespace></namespaces>
</siteinfo>"""


def page(number: int, title: str, text: str, ns: int = 0, extra: str = "") -> str:
    return (
        f"<page><title>{title}</title><ns>{ns}</ns><id>{number}</id>{extra}<revision><id>9{number}</id>"
        f'<text xml:space="preserve">{text}</text></revision></page>'
    )


def dump(*pages: str) -> bytes:
    return (HEAD + "\n".join(pages) + "</mediawiki>").encode()


SMALL = dump(
    page(1, "Erste Seite", "'''Erste''' [[Datei:a.png|b]]Seite. [[Kategorie:C]]"),
    page(2, "Weiter", "#REDIRECT [[Erste Seite]]", extra='<redirect title="Erste Seite" />'),
    page(3, "Diskussion:Erste", "Rede", ns=1),
    page(4, "Ä/B &amp; C", "&lt;b&gt;Text&lt;/b&gt;"),
    page(5, "Leer", "{{Nur eine Vorlage}}"),
    page(6, "alt", "#redirect [[x]]"),
)


def test_articles_only(tmp_path: Path) -> None:
    path = tmp_path / "wiki.xml"
    path.write_bytes(SMALL)
    report = wiki([path], tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == [
        {"id": "1", "url": "https://de.example.org/wiki/Erste_Seite", "title": "Erste Seite", "text": "Erste Seite."},
        {"id": "4", "url": "https://de.example.org/wiki/%C3%84/B_%26_C", "title": "Ä/B & C", "text": "Text"},
    ]
    assert (report.pages, report.redirects, report.documents_in, report.documents_out) == (6, 2, 3, 2)
    assert report.rejected == {"short": 1}


def test_compressed_and_options(tmp_path: Path) -> None:
    for name, packed in (
        ("w.xml.bz2", bz2.compress(SMALL)),
        ("w.xml.gz", gzip.compress(SMALL)),
        ("w.xml-p1p9.bz2", bz2.compress(SMALL)),
    ):
        (tmp_path / name).write_bytes(packed)
        assert [record["id"] for record in read_articles(tmp_path / name)] == ["1", "4"]
    config = WikiConfig(min_chars=5, text=WikitextConfig(headings="drop"))
    assert [record["id"] for record in read_articles(tmp_path / "w.xml.gz", config)] == ["1"]


def test_damage_is_told_with_its_place(tmp_path: Path) -> None:
    for name, content, message in (
        ("cut.xml", SMALL[:-300], r"cut\.xml:\d+:\d+: not well-formed XML, after \d pages, the last "),
        ("cut.xml.bz2", bz2.compress(SMALL * 99)[:-20], r"cut\.xml\.bz2"),
        ("cut.xml.gz", gzip.compress(SMALL)[:-20], r"cut\.xml\.gz: truncated after \d pages"),
        ("other.xml", b"<html><body/></html>", "not a MediaWiki dump: its root is <html>"),
        ("text.xml", b"no xml at all", r"text\.xml:1:0: not well-formed XML, before any page"),
        ("none.xml", HEAD.encode() + b"</mediawiki>", r"no articles in .*none\.xml"),
        ("empty.xml", b"", r"empty\.xml:1:0"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MccError, match=message) as caught:
            wiki([tmp_path / name], tmp_path / "out.jsonl")
        assert "\n" not in caught.value.what
        assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(MccError, match="no such dump"):
        wiki([tmp_path / "missing.xml"], tmp_path / "out.jsonl")
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(UsageError, match="not a MediaWiki dump"):
        Dump(tmp_path / "a.jsonl")


def test_memory_does_not_grow_with_the_dump(tmp_path: Path) -> None:
    def peak(pages: int) -> int:
        path = tmp_path / "big.xml"
        path.write_bytes(dump(*(page(i, f"P{i}", "Some text. " * 200) for i in range(pages))))
        tracemalloc.start()
        for _ in read_articles(path):
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(1000) < 1.2 * peak(100) + 100_000


def test_the_shared_dump(shared_data: Path) -> None:
    (path,) = (shared_data / "wiki").glob("*.bz2")
    source = {page.title: page.text for page in Dump(path) if not page.redirect}
    records = list(read_articles(path))
    assert len(records) == len(source) == 106
    for record in records:
        assert not [mark for mark in ("{{", "}}", "{|", "<ref", "[[", "]]", "</") if mark in record["text"]]
        assert not re.search(r"\|(thumb|left|right)\b|^\s*[|!]", record["text"], re.MULTILINE)
    # Items without markup of their own are there, but for those that stand in tables.
    found = total = 0
    for record in records:
        lines = set(record["text"].split("\n"))
        for item in re.findall(r"^\*+ *([\w ,.;()-]{10,})$", source[record["title"]], re.MULTILINE):
            total += 1
            found += f"- {re.sub(' +', ' ', item.strip())}" in lines
    assert total > 100 and found / total > 0.85
