"""Downloads from a server on this machine that breaks, lies, or is not there."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mcc.cli.main import main
from mcc.core.errors import MccError, UsageError
from mcc.core.events import Silent
from mcc.data.fetch import catalogue
from mcc.data.fetch.catalogue import CATALOGUE, Entry, Item, expand, find
from mcc.data.fetch.download import Unreachable, fetch
from mcc.data.get import get, manual_steps

CONTENT = random.Random(1).randbytes(700_000)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves `files`; breaks a connection after so many bytes as `break_after` says, as often as `breaks` says."""

    def __init__(self) -> None:
        self.files = {"/file": CONTENT}
        self.tag: str | None = '"v1"'
        self.ranges = True
        self.breaks = 0
        self.break_after = [1 << 18]
        self.statuses: list[int] = []
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        if self.statuses:
            request.send_error(self.statuses.pop(0))
            return
        content = self.files.get(request.path)
        if content is None:
            request.send_error(404)
            return
        begin = 0
        if wanted and self.ranges and request.headers.get("If-Range") in (None, self.tag):
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(content):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(content)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        if self.tag:
            request.send_header("ETag", self.tag)
        request.send_header("Content-Length", str(len(content) - begin))
        request.end_headers()
        if self.breaks:
            self.breaks -= 1
            amount = self.break_after.pop(0) if len(self.break_after) > 1 else self.break_after[0]
            request.wfile.write(content[begin : begin + amount])
            request.close_connection = True
            return
        request.wfile.write(content[begin:])


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.server.shutdown()
    running.server.server_close()


class Warned(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def break_off(server: Server) -> None:
    """A part comes, then nothing any more."""
    server.breaks, server.break_after = 2, [1 << 18, 0]


def fetch_file(server: Server, path: Path, **given: object) -> str:
    values = {"size": len(CONTENT), "checksum": SHA256, "pauses_s": (0.0, 0.0), **given}
    return fetch([server.url + "/file"], path, **values).state  # type: ignore[arg-type]


def test_a_file_and_once_more(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new" / "f"
    assert fetch_file(server, path) == "downloaded"
    assert path.read_bytes() == CONTENT
    assert hidden(path.parent) == ["f"]
    assert fetch_file(server, path) == "there already"
    assert len(server.asked) == 1


def test_a_broken_connection_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.breaks = 2
    fetch_file(server, tmp_path / "f")
    assert server.asked == [None, "bytes=262144-", "bytes=524288-"]
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_later_run_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    """What came stays hidden, nothing stands under the final name, and the next run takes the rest only."""
    break_off(server)
    with pytest.raises(MccError, match=r"broke after 262,144 of 700,000 bytes: the server ended too soon.*goes on"):
        fetch_file(server, tmp_path / "f", pauses_s=())
    assert hidden(tmp_path) == [".f.download.json", ".f.partial"]
    assert fetch_file(server, tmp_path / "f") == "resumed"
    assert server.asked[-1] == "bytes=262144-"
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert hidden(tmp_path) == ["f"]


@pytest.mark.parametrize("how", ["changed", "no tag", "no ranges"])
def test_parts_of_different_files_are_never_joined(server: Server, tmp_path: Path, how: str) -> None:
    server.tag = None if how == "no tag" else server.tag
    break_off(server)
    with pytest.raises(MccError):
        fetch_file(server, tmp_path / "f", pauses_s=(), size=None, checksum=None)
    server.ranges = how != "no ranges"
    if how == "changed":
        server.tag, server.files["/file"] = '"v2"', CONTENT[::-1]
    fetch_file(server, tmp_path / "f", size=None, checksum=None)
    assert (tmp_path / "f").read_bytes() == server.files["/file"]


def test_a_server_that_lies_about_its_version(server: Server, tmp_path: Path) -> None:
    """The tag is the same, the bytes are not: the checksum tells, and all is fetched again."""
    server.files["/file"] = CONTENT[::-1]
    break_off(server)
    with pytest.raises(MccError):
        fetch_file(server, tmp_path / "f", pauses_s=())
    server.files["/file"] = CONTENT
    warned = Warned()
    assert fetch_file(server, tmp_path / "f", reporter=warned) == "downloaded"
    assert "do not fit together" in warned.warnings[0]
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_all_is_there_but_the_name(server: Server, tmp_path: Path) -> None:
    """Killed between the last byte and the rename: the server answers 416, and that is all right."""
    (tmp_path / ".f.partial").write_bytes(CONTENT)
    (tmp_path / ".f.download.json").write_text(json.dumps({"url": server.url + "/file", "tag": '"v1"'}))
    assert fetch_file(server, tmp_path / "f") == "resumed"
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_wrong_files(server: Server, tmp_path: Path) -> None:
    for given, message in (
        ({"checksum": "sha256:" + "0" * 64}, r"f: sha256 \w+ instead of 0+: not the expected file"),
        ({"size": 5}, r"f: 700,000 bytes instead of 5: not the expected file"),
    ):
        with pytest.raises(MccError, match=message):
            fetch_file(server, tmp_path / "f", **given)
        assert hidden(tmp_path) == []
    (tmp_path / "f").write_text("other")
    with pytest.raises(MccError, match=r"5 bytes instead of 700,000.*hint: delete it"):
        fetch_file(server, tmp_path / "f")
    assert (tmp_path / "f").read_text() == "other"


def test_addresses_are_tried_in_order(server: Server, tmp_path: Path) -> None:
    urls = ["http://127.0.0.1:9/none", server.url + "/gone", server.url + "/file"]
    assert fetch(urls, tmp_path / "f", checksum=SHA256, pauses_s=()).url == urls[2]
    with pytest.raises(Unreachable, match=r"cannot download g: 127.0.0.1:9: it refuses.*; .*: the server says 404"):
        fetch(urls[:2], tmp_path / "g", pauses_s=())
    assert hidden(tmp_path) == ["f"]


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert fetch_file(server, tmp_path / "f") == "downloaded"
    server.statuses = [503] * 9
    with pytest.raises(Unreachable, match="503"):
        fetch_file(server, tmp_path / "g")


def archive_entry(server: Server, name: str, content: bytes, **more: object) -> Entry:
    server.files[f"/{name}"] = content
    item = Item(name=name, urls=(f"{server.url}/{name}",), size=len(content), unpack=True, **more)  # type: ignore[arg-type]
    return Entry(name="x", about="", licence="mine", next="look at {folder}/b.txt", items=(item,))


def zipped(members: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return packed.getvalue()


def tarred(members: dict[str, str], link: str | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
        if link:
            info = tarfile.TarInfo("link")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return packed.getvalue()


def test_archives(server: Server, tmp_path: Path) -> None:
    entry = archive_entry(server, "a.zip", zipped({"in/a.raw": "A", "b": "B", "__MACOSX/c": ""}), rename={"b": "b.txt"})
    report = get("x", tmp_path / "zip", entry=entry)
    assert [Path(path).relative_to(tmp_path / "zip").as_posix() for path in report.unpacked] == ["in/a.raw", "b.txt"]
    assert (tmp_path / "zip" / "b.txt").read_text() == "B"
    assert report.next == f"look at {tmp_path}/zip/b.txt"
    get("x", tmp_path / "tar", entry=archive_entry(server, "a.tar.gz", tarred({"d/e": "E"}, "/etc")))
    assert sorted(path.name for path in (tmp_path / "tar").rglob("*")) == ["a.tar.gz", "d", "e"]


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("member", ["../out", "/tmp/mcc-out", "a/../../out"])
def test_archives_write_nowhere_else(
    server: Server, tmp_path: Path, make: Callable[[dict[str, str]], bytes], member: str
) -> None:
    name = "a.zip" if make is zipped else "a.tar.gz"
    with pytest.raises(MccError, match="would be written outside"):
        get("x", tmp_path / "in", entry=archive_entry(server, name, make({member: "x"})))
    assert hidden(tmp_path) == ["in"]
    assert hidden(tmp_path / "in") == [name]


def test_a_damaged_archive(server: Server, tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar.gz"):
        with pytest.raises(MccError, match="cannot be unpacked"):
            get("x", tmp_path, entry=archive_entry(server, name, b"nothing"))


def test_a_dump_has_the_checksum_of_its_publisher(server: Server, tmp_path: Path) -> None:
    name = "pages-articles.xml.bz2"
    digest = hashlib.sha1(CONTENT).hexdigest()
    base = f"{server.url}/xwiki/latest/xwiki-latest-"
    item = Item(name=f"xwiki-latest-{name}", urls=(base + name,), sums=base + "sha1sums.txt", listed=f"-{name}")
    entry = Entry(name="wiki", about="", licence="", next="", items=(item,))
    server.files["/xwiki/latest/xwiki-latest-sha1sums.txt"] = (
        f"{'1' * 40}  xwiki-20261101-all-titles.gz\n{digest}  xwiki-20261101-{name}\n".encode()
    )
    server.files[f"/xwiki/20261101/xwiki-20261101-{name}"] = CONTENT
    (file,) = get("wiki", tmp_path, entry=entry).files
    assert file.checksum == f"sha1:{digest}"
    assert file.path == str(tmp_path / f"xwiki-20261101-{name}")
    # Without the list the file is fetched all the same, and that is said.
    del server.files["/xwiki/latest/xwiki-latest-sha1sums.txt"]
    server.files[f"/xwiki/latest/xwiki-latest-{name}"] = CONTENT
    warned = Warned()
    (file,) = get("wiki", tmp_path, entry=entry, reporter=warned).files
    assert file.checksum is None
    assert "no checksum" in warned.warnings[0]


def test_the_catalogue() -> None:
    assert len(expand(["glue", "race", "glue-rte"])) == 10
    with pytest.raises(UsageError, match="unknown data set 'lambda'; did you mean 'lambada'"):
        expand(["lambda"])
    for name in CATALOGUE:
        entry = find(name)
        assert entry.items and entry.about and entry.licence and "{folder}" in entry.next
        for item in entry.items:
            algorithm, _, digest = (item.checksum or "").partition(":")
            assert (algorithm == "sha256" and len(digest) == 64) or item.sums, item.name
            assert all(url.startswith(("https://", "http://www.cs.cmu.edu/")) for url in item.urls)
    (item,) = find("wiki", "zh-min-nan", "20260101").items
    assert item.urls == (
        "https://dumps.wikimedia.org/zh_min_nanwiki/20260101/zh_min_nanwiki-20260101-pages-articles.xml.bz2",
    )


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["wiki", "--lang", "../de"], "no Wikipedia has the language '../de'"),
        (["wiki", "--date", "yesterday"], "'yesterday' is no date of a dump"),
        (["gpt2-vocab", "--lang", "de"], "--lang and --date are of wiki"),
        (["gpt2-vocab", "--date", "20260901"], "--lang and --date are of wiki"),
    ],
)
def test_languages_and_dates(words: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", *words, "--dry-run"]) == 2
    assert what in capsys.readouterr().err


def test_files_brought_by_hand(shared_data: Path, tmp_path: Path) -> None:
    """Known files, copied to where they belong, are what the catalogue says."""
    for name, here in (
        ("gpt2-vocab", "gpt2"),
        ("lambada", "lambada"),
        ("bert-uncased-vocab", "bert"),
    ):
        for item in CATALOGUE[name].items:
            (tmp_path / name).mkdir(exist_ok=True)
            (source,) = (shared_data / here).glob(f"*{item.name}")
            (tmp_path / name / item.name).write_bytes(source.read_bytes())
        assert {file.state for file in get(name, tmp_path / name).files} == {"there already"}


def test_the_command(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    item = Item(name="f", urls=(server.url + "/file",), size=len(CONTENT), checksum=SHA256)
    gone = Item(name="g", urls=(server.url + "/gone",), size=7)
    entries = {
        "x": Entry(name="x", about="a file", licence="mine", next="see {folder}", items=(item,)),
        "gone": Entry(name="gone", about="no file", licence="mine", next="see {folder}", items=(gone,)),
    }
    monkeypatch.setattr(catalogue, "CATALOGUE", entries)
    assert main(["data", "get", "--list"]) == 0
    assert "a file" in capsys.readouterr().out
    assert main(["data", "get", "x", "-o", str(tmp_path), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["size"] == len(CONTENT)
    assert hidden(tmp_path) == [] and not server.asked
    assert main(["data", "get", "x", "-o", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["state"] == "downloaded"
    assert main(["data", "get", "gone", "-o", str(tmp_path)]) == 1
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "By hand, on a machine with a network:"
    assert shown[-2].startswith("error: cannot download g: 127.0.0.1")
    assert main(["data", "get"]) == 2
    assert manual_steps(entries["gone"], tmp_path)[2].endswith(str(tmp_path / "g"))
