"""`mcc data wiki` against wikiextractor: pages a second on one core, and how much of the text is there afterwards.

    MCC_TEST_DATA=... python benchmarks/data/wiki.py

Reads `wiki/*.bz2` below MCC_TEST_DATA, ten times over for the speed. wikiextractor (AGPL; only run, as a program) and
mwparserfromhell (MIT; the independent judge of what an article shows) live in an environment of their own, made on
first use in the folder for temporary files.

A paragraph or list item counts as kept when one line of the output holds all pieces of its visible text in order.
"""

from __future__ import annotations

import bz2
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from measure import cpu, row

from mcc.data.wiki import wiki

_COPIES = 10
_PEERS = ("wikiextractor==3.1.0", "mwparserfromhell==0.7.2")
_MARKS = ("{{", "{|", "<ref")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(rows(Path(folder))))


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every measurement; the work is done in `folder`."""
    dumps = sorted(Path(os.environ.get("MCC_TEST_DATA", "/nonexistent")).glob("wiki/*.bz2"))
    if not dumps:
        print("wiki: left out, MCC_TEST_DATA names no folder with wiki/*.bz2", file=sys.stderr)
        return []
    one, many = _copies(dumps[0], folder)
    seconds, report = cpu(lambda: wiki([many], folder / "many.jsonl"))
    compressed = _compressed(many)
    packed, _ = cpu(lambda: wiki([compressed], folder / "packed.jsonl"))
    wiki([one], folder / "one.jsonl")
    ours = (folder / "one.jsonl").read_text(encoding="utf-8")
    left = sum(ours.count(mark) for mark in _MARKS)
    found = [
        row("wiki: articles, from XML", report.documents_in / seconds, "articles/s"),
        row("wiki: articles, from bzip2", report.documents_in / packed, "articles/s"),
        row("wiki: marks left in the text ({{ {| <ref)", left, "", left == 0, "0"),
    ]
    peers = _peers()
    if peers is None:
        return found
    theirs, _ = cpu(lambda: _extract(peers, many, folder / "peer-many"))
    ratio = theirs / seconds
    found += [
        row("wiki: wikiextractor, from XML", report.documents_in / theirs, "articles/s"),
        row("wiki: times wikiextractor's speed", ratio, "x", ratio >= 1, ">= 1"),
    ]
    judge = Path(__file__).with_name("wiki_reference.py")
    shown = subprocess.run([peers / "python", judge, one], stdout=subprocess.PIPE, check=True).stdout
    reference = [json.loads(line) for line in shown.splitlines()]
    share = kept_shares(reference, ours.splitlines())
    _extract(peers, one, folder / "peer-one")
    peer_lines = [line for path in (folder / "peer-one").rglob("wiki_*") for line in path.read_text().splitlines()]
    peer_share = kept_shares(reference, peer_lines)
    for what, bar in (("items", 0.85), ("paragraphs", 0.95)):
        count = sum(len(article[what]) for article in reference)
        found += [
            row(f"wiki: {what} kept, of {count:,}", share[what], "", share[what] >= bar, f">= {bar}"),
            row(f"wiki: {what} kept by wikiextractor", peer_share[what]),
        ]
    return found


def kept_shares(reference: list[dict[str, Any]], output: list[str]) -> dict[str, float]:
    """The shares of list items and of paragraphs that lines of the output hold."""
    texts = {record["title"]: record["text"] for record in map(json.loads, output)}
    shares = {}
    for what in ("items", "paragraphs"):
        wanted = kept = 0
        for article in reference:
            text = texts.get(article["title"], "")
            lines = ["".join(filter(str.isalnum, line.lower())) for line in text.split("\n")]
            wanted += len(article[what])
            kept += sum(any(_holds(line, pieces) for line in lines) for pieces in article[what])
        shares[what] = kept / wanted
    return shares


def _holds(line: str, pieces: list[str]) -> bool:
    position = 0
    for piece in pieces:
        position = line.find(piece, position)
        if position < 0:
            return False
        position += len(piece)
    return True


def _copies(dump: Path, folder: Path) -> tuple[Path, Path]:
    """The dump as XML, once and several times over."""
    content = bz2.decompress(dump.read_bytes())
    begin, end = content.index(b"<page>"), content.rindex(b"</mediawiki>")
    one, many = folder / "one.xml", folder / "many.xml"
    one.write_bytes(content)
    many.write_bytes(content[:begin] + content[begin:end] * _COPIES + content[end:])
    return one, many


def _compressed(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.bz2")
    packed.write_bytes(bz2.compress(path.read_bytes()))
    return packed


def _peers() -> Path | None:
    """The programs of an environment with the peers, made on first use; None when they cannot be had."""
    folder = Path(tempfile.gettempdir(), "mcc-benchmark-wiki-peers")
    if not (folder / "ready").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            subprocess.run([folder / "bin" / "pip", "install", "--quiet", *_PEERS], check=True)
        except subprocess.CalledProcessError:
            print("the peers cannot be installed: no comparison", file=sys.stderr)
            return None
        (folder / "ready").touch()
    return folder / "bin"


def _extract(peers: Path, dump: Path, output: Path) -> None:
    command = [peers / "wikiextractor", dump, "-o", output, "--json", "--processes", "1", "-q", "--no-templates"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
