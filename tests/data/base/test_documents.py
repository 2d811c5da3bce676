"""Reading records: what is read, and what is said of what cannot be."""

from __future__ import annotations

import bz2
import gzip
import random
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.data.base.documents import ReadConfig, Reader, parse
from mcc.data.base.streams import open_output

RECORDS = [{"text": "one", "id": 1}, {"text": "zwei ü 🦊", "meta": {"a": [1, None]}}, {"text": ""}]
LINES = b"".join(orjson.dumps(record) + b"\n" for record in RECORDS)


def test_every_compression_reads_the_same(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.zst", "a.ndjson", "A.JSONL.GZ"):
        path = tmp_path / name
        with open_output(path, path) as stream:
            stream.write(LINES)
        assert list(Reader([path])) == RECORDS, name


def test_blank_lines_byte_order_mark_and_missing_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\n \n").rstrip())
    assert list(Reader([path])) == RECORDS


def test_files_in_order_and_patterns_sorted(tmp_path: Path) -> None:
    for name in ("p-2.jsonl", "p-1.jsonl", "first.txt"):
        (tmp_path / name).write_text(f'{{"text": "{name}"}}\n' if "jsonl" in name else name)
    found = list(Reader([tmp_path / "first.txt", f"{tmp_path}/p-*.jsonl"]))
    assert [record["text"] for record in found] == ["first.txt", "p-1.jsonl", "p-2.jsonl"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "not JSON at column"),
        (b"not json", "not JSON at column 1"),
        (b"[1]", "not a JSON object but an array"),
        (b"7", "not a JSON object but a number"),
        (b'{"txet": "a"}', "no key 'text' (there is 'txet')"),
        (b"{}", "no key 'text' (there is none)"),
        (b'{"text": 5}', "key 'text' holds a number, not text"),
        (b'{"text": null}', "key 'text' holds null, not text"),
        (b'{"text": ["a"]}', "key 'text' holds an array, not text"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
        (b'{"text": "\xed\xa0\x80"}', "invalid UTF-8"),
        (b'{"text": "\xff"}', "invalid UTF-8"),
        (b'{"text": "a\x00b"}', "unexpected control character"),
    ],
)
def test_a_bad_line_is_named_and_ends_the_reading(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n" + b'{"text": "good"}\n')
    with pytest.raises(MccError) as caught:
        list(Reader([path]))
    assert caught.value.what.startswith(f"{path}:2: ") and reason in caught.value.what
    assert "\n" not in caught.value.what
    tolerant = Reader([path], ReadConfig(max_errors=1))
    assert [record["text"] for record in tolerant] == ["good", "good"]
    assert tolerant.bad_lines == 1 and tolerant.bad[0].where == f"{path}:2" and reason in tolerant.bad[0].reason
    with pytest.raises(MccError):
        list(Reader([path], ReadConfig(max_errors=1, on_error="fail")))


def test_one_error_too_many(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x\ny\nz\n")
    with pytest.raises(MccError, match=r"a\.jsonl:3: .*bad line 3, more than max-errors 2"):
        list(Reader([path], ReadConfig(max_errors=2)))


def test_several_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"title": "t", "text": "x"}\n{"text": "x"}\n')
    with pytest.raises(MccError, match=r":2: no key 'title'"):
        list(Reader([path], ReadConfig(keys=("title", "text"))))


def test_a_cut_off_file_says_where(tmp_path: Path) -> None:
    whole = LINES * 3000
    for name, packed in (("a.jsonl.gz", gzip.compress(whole)), ("a.jsonl.bz2", bz2.compress(whole))):
        path = tmp_path / name
        path.write_bytes(packed[: len(packed) // 2])
        with pytest.raises(MccError, match=rf"{name}: (truncated|cannot be read) after line \d+"):
            list(Reader([path]))
        path.write_bytes(b"this is not compressed")
        with pytest.raises(MccError, match="cannot be read after line 0"):
            list(Reader([path]))
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"this is not compressed")
    with pytest.raises(MccError, match="cannot be read after line 0"):
        list(Reader([path]))
    # Lines that do not compress, so that the frame has many blocks and a cut falls between two of them.
    generator = random.Random(1)
    rows = [orjson.dumps({"text": generator.randbytes(40).hex()}) + b"\n" for _ in range(20000)]
    packed = zstandard.compress(b"".join(rows))
    for cut in range(1000, len(packed), len(packed) // 10):
        path.write_bytes(packed[:cut])
        with pytest.raises(MccError, match=r"truncated after line|not JSON"):
            list(Reader([path]))
    path.write_bytes(packed * 2)
    assert len(list(Reader([path]))) == 40000


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MccError, match=r"no such input file: .*none\.jsonl"):
        Reader([tmp_path / "none.jsonl"])
    with pytest.raises(MccError, match="matches"):
        Reader([f"{tmp_path}/*.jsonl"])
    with pytest.raises(MccError, match="is a folder"):
        Reader([tmp_path])
    (tmp_path / "a.pdf").write_text("")
    with pytest.raises(UsageError, match=r"unknown format '\.pdf'"):
        Reader([tmp_path / "a.pdf"])
    (tmp_path / "a.xml").write_text("")
    with pytest.raises(UsageError) as caught:
        Reader([tmp_path / "a.xml"])
    assert "mcc data wiki" in caught.value.hint
    with pytest.raises(UsageError, match="no input file given"):
        Reader([])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_a_reason(line: bytes) -> None:
    try:
        record = parse(line)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(record["text"], str)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_gzip_never_crashes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    packed = bytearray(gzip.compress(LINES * 20, mtime=0))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("gz") / "a.jsonl.gz"
    path.write_bytes(packed[: data.draw(st.integers(0, len(packed)))])
    try:
        list(Reader([path]))
    except MccError as error:
        assert str(path) in error.what


def test_bad_settings() -> None:
    for options in ({"on_error": "ignore"}, {"max_errors": -1}, {"keys": ()}):
        with pytest.raises(UsageError):
            ReadConfig(**options)
