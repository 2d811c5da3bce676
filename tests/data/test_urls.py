"""URLs chosen by rule: each rule, the order of rules, duplicates over files and blocks, bad input."""

from __future__ import annotations

import gzip
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.data import repeated
from mcc.data.base.records import ReadConfig
from mcc.data.url_rules import KINDS, UrlRules, UrlsConfig
from mcc.data.urls import urls
from tests.data.conftest import Write, read

RULES = UrlRules(UrlsConfig())


def judged(url: str, **options: Any) -> str:
    rules = UrlRules(UrlsConfig(**options)) if options else RULES
    kind = rules.judge(url)
    if kind:
        why = rules.reason(url, kind)
        assert why and "\n" not in why
    return KINDS[kind]


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://example.org/a/b?c=d#e", ""),
        ("http://sub.example.co.uk:8080", ""),
        ("http://192.168.0.1/x", ""),
        ("https://www.youtube.com/watch?v=1", "domain"),
        ("http://m.YouTube.com/", "domain"),
        ("http://amazon.co.uk/dp/1", "domain"),
        ("http://user:pw@old.reddit.com:80/r/x", "domain"),
        ("reddit.com/r/x", "domain"),
        ("http://t.me/x", "domain"),
        ("http://a.t.me/x", "domain"),
        ("http://not.me/x", ""),
        ("http://myyoutube.com/", ""),
        ("http://youtube.example.org/", ""),
        ("http://example.org/?u=youtube.com", ""),
        ("http://example.org/youtube.com", ""),
        ("http://example.org/a.JPG", "extension"),
        ("http://example.org/a.tar.gz?x=1", "extension"),
        ("http://example.org/?x=a.jpg", ""),
        ("http://example.org/jpg", ""),
        ("http://a", "short"),
        ("http://a.b", "malformed"),
        ("ftp://example.org/", "malformed"),
        ("http://example.org?", "malformed"),
        ("http://example.org/a b", "malformed"),
        ("http://-x.org/", "malformed"),
        ("http://" + "a" * 64 + ".org/", "malformed"),
        ("http://example/", "malformed"),
        ("http://[::1]/abc", "malformed"),
    ],
)
def test_rules(url: str, kind: str) -> None:
    assert judged(url) == kind


def test_the_first_rule_decides() -> None:
    assert judged("youtu.be/a.jpg") == "domain" and judged("a.jpg") == "extension" and judged("") == "short"


def test_own_lists(tmp_path: Path) -> None:
    (tmp_path / "domains").write_text("# names\n\nexample\nnews.test.org\n", encoding="utf-8")
    (tmp_path / "endings").write_text("html\n.PHP\n", encoding="utf-8")
    (tmp_path / "patterns").write_text(r"/tag/\d+" + "\n", encoding="utf-8")
    options: dict[str, Any] = {
        "domain_files": (str(tmp_path / "domains"),),
        "extension_files": (str(tmp_path / "endings"),),
        "pattern_files": (str(tmp_path / "patterns"),),
        "domains": ("more",),
        "extensions": (".xyz",),
        "patterns": ("^https://s",),
    }
    for url, kind in (
        ("http://www.example.com/", "domain"),
        ("http://more.net/", "domain"),
        ("http://a.news.test.org/", "domain"),
        ("http://test.org/", ""),
        ("http://a.org/b.php?c", "extension"),
        ("http://a.org/b.xyz", "extension"),
        ("http://a.org/tag/12", "pattern"),
        ("https://s.org/", "pattern"),
        ("http://a.org/tag/x", ""),
        ("http://youtube.com/", "domain"),
    ):
        assert judged(url, **options) == kind, url
    assert judged("http://youtube.com/a.jpg", lists=False) == ""
    assert judged("http://a b", malformed=False, min_chars=0) == ""
    with pytest.raises(UsageError, match="no regular expression"):
        judged("", patterns=("(",))
    with pytest.raises(MccError, match="no such list"):
        judged("", domain_files=("nowhere",))
    (tmp_path / "domains").write_bytes(b"\xff")
    with pytest.raises(MccError, match="not UTF-8"):
        judged("", domain_files=(str(tmp_path / "domains"),))
    with pytest.raises(UsageError, match="workers"):
        UrlsConfig(workers=0)
    with pytest.raises(UsageError, match="min_chars"):
        UrlsConfig(min_chars=-1)


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from(["http://", "a", ".", "com", "/", "?", ":", "@", "é", "1", "-"])).map("".join)
)
def test_any_text_is_judged(url: str) -> None:
    assert judged(url) in KINDS


def test_folders_files_and_duplicates(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "b.txt").write_bytes(b"http://one.org/\nhttp://three.org/")
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfhttp://one.org/\r\n\n  http://two.org/  \nhttp://youtube.com/\nx\n")
    (folder / "no.csv").write_text("http://four.org/\n")
    with gzip.open(tmp_path / "c.txt.gz", "wb") as stream:
        stream.write(b"http://two.org/\nhttp://five.org/\n")
    report = urls([folder, tmp_path / "c.txt.gz"], tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "".join(
        f"http://{name}.org/\n" for name in ("one", "two", "three", "five")
    )
    assert report.rejected == {"domain": 1, "duplicate": 2, "short": 1}
    assert (report.documents_in, report.documents_out) == (8, 4)
    rejects = read(tmp_path / "out.rejects.jsonl")
    assert rejects[0] == {"reason": "domain: youtube", "where": f"{folder}/a.txt:4", "url": "http://youtube.com/"}
    urls([tmp_path / "out.txt", tmp_path / "out.txt"], tmp_path / "two.jsonl", UrlsConfig(duplicates=False))
    assert len(read(tmp_path / "two.jsonl")) == 8


def test_records_keep_their_keys(jsonl: Write, tmp_path: Path) -> None:
    records = [{"link": "http://one.org/", "text": "a"}, {"link": "http://one.org/", "text": "b"}, {"link": 7}]
    report = urls([jsonl("in.jsonl", records)], tmp_path / "out.jsonl.gz", UrlsConfig(key="link"))
    assert gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()) == b'{"link":"http://one.org/","text":"a"}\n'
    assert (report.bad_lines, report.rejected) == (1, {"duplicate": 1})
    urls([tmp_path / "in.jsonl"], tmp_path / "out.txt", UrlsConfig(key="link"))
    assert (tmp_path / "out.txt").read_text() == "http://one.org/\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_many_blocks(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a set, with small blocks and small parts."""
    monkeypatch.setattr(repeated, "_SORTED", 64)
    generator = random.Random(1)
    names = [f"http://{generator.choice('abcdefgh')}{generator.randrange(300)}.org/{'x' * 30}" for _ in range(2000)]
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.txt")
        paths[-1].write_text("\n".join(names[i::3]) + "\n" * (i % 2))
    config = UrlsConfig(workers=workers, read=ReadConfig(keys=("url",), block_bytes=1000))
    report = urls([*paths, paths[0]], tmp_path / "out.txt", config)
    given_order = [*names[0::3], *names[1::3], *names[2::3], *names[0::3]]
    assert (tmp_path / "out.txt").read_text().split() == list(Counter(given_order))
    assert report.rejected == {"duplicate": len(given_order) - len(set(given_order))}


def test_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"http://one.org/\nhttp://\xff.org/\nhttp://two.org/\n")
    report = urls([path], tmp_path / "out.txt")
    assert report.bad_lines == 1 and report.documents_out == 2
    assert "not UTF-8 at byte 7" in read(tmp_path / "out.rejects.jsonl")[0]["reason"]
    with pytest.raises(MccError, match=r"in\.txt:2: not UTF-8"):
        urls([path], tmp_path / "fail.txt", UrlsConfig(read=ReadConfig(on_error="fail")))
    assert not (tmp_path / "fail.txt").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(MccError, match=r"no \.txt files"):
        urls([tmp_path / "empty"], tmp_path / "o.txt")
    (tmp_path / "blank.txt").write_bytes(b"\n\n")
    with pytest.raises(MccError, match="no documents"):
        urls([tmp_path / "blank.txt"], tmp_path / "o.txt")
    with pytest.raises(UsageError, match="records are written"):
        urls([path], tmp_path / "o.csv")
    with pytest.raises(UsageError, match="both input and output"):
        urls([path], path)
    long = tmp_path / "long.txt"
    long.write_bytes(b"http://one.org/" + b"x" * 5000 + b"\nhttp://two.org/\n")
    config = UrlsConfig(read=ReadConfig(block_bytes=100, max_line_bytes=1000))
    assert urls([long], tmp_path / "o.txt", config).bad_lines == 1
    assert (tmp_path / "o.txt").read_text() == "http://two.org/\n"
