"""The page is one well-formed file without links, shows what it is given, and survives what is missing."""

from __future__ import annotations

import base64
import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mcc.quickstart.report import bytes_figure, loss_figure, write_report

SUMMARY: dict[str, Any] = {
    "docs_in": 1234,
    "docs_kept": 1100,
    "tokens": 812_345,
    "unigram_entropy": 6.31,
    "hf_logits_max_abs_diff": 3.1e-6,
    "checks": {"loss_below_unigram_entropy": True, "wire <4x> & smaller": False},
    "seconds": 214.3,
    "steps": 300,
    "runs": {
        "dense": {
            "final_train_loss": 4.0,
            "heldout_loss": 4.25,
            "word_perplexity": 312.2,
            "cloze_accuracy": 0.112,
            "tokens_per_s": 8123.2,
            "wire_bytes": {"pp.forward": 120_000_000, "tp.forward": 500_000, "embedding": 70, "dp.grad": 0},
        },
        "compressed": {
            "final_train_loss": 4.1,
            "heldout_loss": 4.29,
            "word_perplexity": 330.1,
            "cloze_accuracy": 0.105,
            "tokens_per_s": 7423.2,
            "wire_bytes": {"pp.forward": 15_000_000, "tp.forward": 125_000, "embedding": 70, "dp.grad": 0},
        },
    },
}
CURVES = {
    run: {"step": [1, 2, 3], "loss": [8.0, 6.0, 4.0], "heldout_step": [1, 3], "heldout_loss": [8.1, 4.2]}
    for run in ("dense", "compressed")
}
_VOID = {"meta", "img", "br", "!doctype"}


class _Reader(HTMLParser):
    """Collects tags, attributes and text; fails where a tag is closed that is not the open one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and "style" not in self.open:
            self.words.append(data.strip())


def read(path: Path, summary: dict[str, Any] = SUMMARY, curves: Any = CURVES) -> tuple[str, _Reader]:
    write_report(path, summary, curves)
    page = path.read_text(encoding="utf-8")
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    return page, reader


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    page, reader = read(tmp_path / "report.html")
    assert not re.search(r"(?i)https?:|//[a-z]|@import|url\(|<script|<link|<iframe", page)
    sources = [value for _, name, value in reader.attributes if name in ("src", "href", "srcset", "data")]
    assert len(sources) == 2 and all(value.startswith("data:image/svg+xml;base64,") for value in sources)
    for source in sources:
        drawing = base64.b64decode(source.partition(",")[2]).decode()
        assert not re.search(r"(?:href|src)=\"(?!#)", drawing), "a drawing links to something else"
        names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # namespaces, which nothing loads
        assert set(re.findall(r'(?<!DTD/)http[^"\s]*', re.sub(r"<!DOCTYPE[^>]*>|<metadata>.*?</metadata>", "", drawing,
                              flags=re.DOTALL))) <= names  # fmt: skip


def test_the_page_shows_what_was_measured(tmp_path: Path) -> None:
    _, reader = read(tmp_path / "report.html")
    for shown in (
        "1,234", "1,100", "812,345", "300", "3.1e-06", "3 min 34 s", "some checks failed",
        "loss below unigram entropy", "wire <4x> & smaller", "pass", "fail",
        "4.0000", "4.1000", "+2.5%", "312.2", "11.20%", "8,123",
        "120.0 MB", "15.0 MB", "8.0x", "70 B", "1.0x", "120.5 MB", "15.1 MB",
    ):  # fmt: skip
        assert shown in reader.words, shown
    assert "dp.grad" not in reader.words  # nothing was sent there
    sites = [word for word in reader.words if word in ("pp.forward", "tp.forward", "embedding", "all sites")]
    assert sites == ["pp.forward", "tp.forward", "embedding", "all sites"]


def test_the_figures_show_the_runs() -> None:
    (axes,) = loss_figure(CURVES, 6.31).axes
    held = [line for line in axes.lines if str(line.get_label()).endswith("held-out")]
    assert [list(line.get_ydata()) for line in held] == [[8.1, 4.2], [8.1, 4.2]]
    assert len(axes.lines) == 5  # two runs with training and held-out loss, and the entropy
    (bars,) = bytes_figure(SUMMARY).axes
    assert bars.get_xscale() == "log"
    assert [patch.get_width() for patch in bars.patches] == [120e6, 5e5, 70, 15e6, 125e3, 70]
    words = [text.get_text() for text in bars.texts]
    assert "15.0 MB  (8.0x less)" in words and "70 B" in words


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    assert read(tmp_path / "a.html")[0] == read(tmp_path / "b.html")[0]


def test_what_is_missing_is_a_dash(tmp_path: Path) -> None:
    bare = copy.deepcopy(SUMMARY)
    for key in ("seconds", "hf_logits_max_abs_diff", "unigram_entropy"):
        del bare[key]
    bare["runs"]["dense"]["cloze_accuracy"] = None
    bare["runs"]["compressed"]["wire_bytes"] = {}
    bare["checks"] = {"one": True}
    _, reader = read(tmp_path / "report.html", bare)
    assert "–" in reader.words and "all checks passed" in reader.words
    _, reader = read(tmp_path / "empty.html", {}, {})
    assert "nothing was checked" in reader.words


def test_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_report(tmp_path / "report.html", SUMMARY, {"dense": {}})
    assert list(tmp_path.iterdir()) == []
