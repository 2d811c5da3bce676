"""Dumps to documents."""

from __future__ import annotations

import bz2
import gzip
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.base.records import ReadConfig
from mcc.data.mediawiki.dump import DumpSource, read_pages
from mcc.data.mediawiki.wikitext import WikitextConfig
from mcc.data.wiki import WikiConfig, read_articles, wiki
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
        ("w.xml.gz", gzip.compress(SMALL, mtime=0)),
        ("w.xml-p1p9.bz2", bz2.compress(SMALL)),
    ):
        (tmp_path / name).write_bytes(packed)
        assert [record["id"] for record in read_articles(tmp_path / name)] == ["1", "4"]
    config = WikiConfig(min_chars=5, text=WikitextConfig(headings="drop"))
    assert [record["id"] for record in read_articles(tmp_path / "w.xml.gz", config)] == ["1"]


def test_damage_is_told_with_its_place(tmp_path: Path) -> None:
    cut = r"cut off at byte [\d,]+: it does not end with </mediawiki>; the last page that begins is 'alt'"
    for name, content, message in (
        ("cut.xml", SMALL[:-30], r"cut\.xml: " + cut),
        ("cut.xml.bz2", bz2.compress(SMALL[:-30]), r"cut\.xml\.bz2: " + cut),
        ("cut.xml.gz", gzip.compress(SMALL[:-12], mtime=0), r"cut\.xml\.gz: " + cut),
        (
            "page.xml.gz",
            gzip.compress(SMALL[:-30], mtime=0),
            r"page\.xml\.gz: truncated: it ends within the page 'alt', before any",
        ),
        ("short.xml.bz2", bz2.compress(SMALL)[:-20], r"short\.xml\.bz2: truncated: the compressed block at byte 4 "),
        ("short.xml.gz", gzip.compress(SMALL, mtime=0)[:-20], r"short\.xml\.gz: truncated before any page"),
        ("gz.xml.bz2", gzip.compress(SMALL, mtime=0), r"gz\.xml\.bz2: not a bzip2 file"),
        ("bz.xml.gz", bz2.compress(SMALL), r"bz\.xml\.gz: cannot be read before any page"),
        ("other.xml", b"<html><body/></html>", "not a MediaWiki dump: its root is <html>"),
        ("text.xml", b"no xml at all", r"text\.xml: not a MediaWiki dump: there is no XML"),
        ("none.xml", HEAD.encode() + b"</mediawiki>", r"no articles in .*none\.xml"),
        ("empty.xml", b"", r"empty\.xml: empty"),
        ("empty.xml.bz2", b"", r"empty\.xml\.bz2: not a bzip2 file"),
        ("site.xml", SMALL.replace(b"</base>", b"</bass>"), r"site\.xml: not well-formed XML before any page"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MccError, match=message) as caught:
            wiki([tmp_path / name], tmp_path / "out.jsonl")
        assert "\n" not in caught.value.what
        assert sorted(path.name for path in tmp_path.iterdir() if "out.jsonl" in path.name) == []
    with pytest.raises(MccError, match="no such dump"):
        wiki([tmp_path / "missing.xml"], tmp_path / "out.jsonl")
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(UsageError, match="not a MediaWiki dump"):
        DumpSource([tmp_path / "a.jsonl"])


def test_a_flipped_bit_in_bzip2(tmp_path: Path) -> None:
    packed = bytearray(bz2.compress(SMALL))
    packed[len(packed) // 2] ^= 4
    (tmp_path / "w.xml.bz2").write_bytes(packed)
    with pytest.raises(MccError, match=r"w\.xml\.bz2: damaged: the compressed block at byte 4 "):
        wiki([tmp_path / "w.xml.bz2"], tmp_path / "out.jsonl")


def test_bad_pages_are_set_aside(tmp_path: Path) -> None:
    """A page that is no XML, or not UTF-8, costs that page only."""
    path = tmp_path / "w.xml"
    path.write_bytes(dump(page(1, "A", "a"), page(2, "B", "b &bad; c"), page(3, "C", "\x01"), page(4, "D", "d")))
    report = wiki([path], tmp_path / "out.jsonl")
    assert [record["title"] for record in read(tmp_path / "out.jsonl")] == ["A", "D"]
    assert report.bad_lines == 2
    rejects = read(tmp_path / "out.rejects.jsonl")
    assert [entry["where"] for entry in rejects] == [f"{path}: page 'B'", f"{path}: page 'C'"]
    assert "undefined entity" in rejects[0]["reason"]
    with pytest.raises(MccError, match="page 'B': not well-formed XML: undefined entity"):
        wiki([path], tmp_path / "out.jsonl", WikiConfig(read=ReadConfig(on_error="fail")))
    with pytest.raises(MccError, match="page 'B': not well-formed"):
        list(read_articles(path))


def test_blocks_and_workers_make_no_difference(tmp_path: Path) -> None:
    """Wherever the file is cut: within tags, within pages longer than a block, within compressed blocks."""
    texts = [f"Text {i} " + "word " * (i * 37 % 400) for i in range(60)]
    content = dump(*(page(i, f"P{i}", text) for i, text in enumerate(texts)))
    multistream = b"".join(bz2.compress(content[i : i + 3001]) for i in range(0, len(content), 3001))
    (tmp_path / "w.xml").write_bytes(content)
    (tmp_path / "w.xml.bz2").write_bytes(multistream)
    (tmp_path / "w.xml.gz").write_bytes(gzip.compress(content))
    wiki([tmp_path / "w.xml"], tmp_path / "all.jsonl")
    expected = (tmp_path / "all.jsonl").read_bytes()
    assert len(expected.splitlines()) == 60
    for name in ("w.xml", "w.xml.bz2", "w.xml.gz"):
        for size, workers in ((7, 1), (100, 1), (1001, 1), (5000, 2), (1 << 20, 1)):
            config = WikiConfig(workers=workers, read=ReadConfig(block_bytes=size))
            report = wiki([tmp_path / name], tmp_path / "out.jsonl", config)
            assert (tmp_path / "out.jsonl").read_bytes() == expected, (name, size)
            assert report.pages == 60


def test_killed_and_started_again(tmp_path: Path) -> None:
    """SIGKILL in the middle, the same command again: the same bytes, and nothing under the final name before."""
    path = tmp_path / "w.xml"
    path.write_bytes(dump(*(page(i, f"P{i}", f"Text {i}. " * 50) for i in range(400))))
    wiki([path], tmp_path / "whole.jsonl")
    code = (
        "import os, sys, mcc.data.wiki as w\n"
        "from pathlib import Path\n"
        "from mcc.data.base.records import ReadConfig\n"
        "count, real = 0, w.article\n"
        "def article(*given):\n"
        "    global count; count += 1\n"
        "    if count == int(sys.argv[3]): os.kill(os.getpid(), 9)\n"
        "    return real(*given)\n"
        "w.article = article\n"
        "w.wiki([sys.argv[1]], Path(sys.argv[2]), w.WikiConfig(read=ReadConfig(block_bytes=20_000)))\n"
        "print(count)"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "out.jsonl")]
    assert subprocess.run([*command, "300"], check=False).returncode == -9
    assert not (tmp_path / "out.jsonl").exists()
    again = subprocess.run([*command, "1000"], check=True, capture_output=True, text=True)
    assert int(again.stdout) < 200, "it began afresh"
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_punctuation_is_made_uniform_on_request(tmp_path: Path) -> None:
    path = tmp_path / "w.xml"
    path.write_bytes(dump(page(1, "A", "“Well…” , he said ; 1 @,@ 000 more .")))
    wiki([path], tmp_path / "out.jsonl", WikiConfig(punctuation=True))
    assert read(tmp_path / "out.jsonl")[0]["text"] == '"Well...", he said; 1,000 more.'


def test_memory_does_not_grow_with_the_dump(tmp_path: Path) -> None:
    def peak(pages: int) -> int:
        path = tmp_path / "big.xml"
        path.write_bytes(dump(*(page(i, f"P{i}", "Some text. " * 200) for i in range(pages))))
        tracemalloc.start()
        wiki([path], tmp_path / "out.jsonl", WikiConfig(read=ReadConfig(block_bytes=100_000)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(1000) < 1.2 * peak(100) + 100_000


def test_the_shared_dump(shared_data: Path) -> None:
    (path,) = (shared_data / "wiki").glob("*.bz2")
    source = {page.title: page.text for page in read_pages(DumpSource([path])) if not page.redirect}
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
