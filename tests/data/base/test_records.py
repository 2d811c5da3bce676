"""Lines of JSON: whatever stands in one, it is a record or a bad line with a reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcc.data.base.blocks import Block
from mcc.data.base.part import Part
from mcc.data.base.records import ReadConfig, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.text())
def test_every_object_with_a_text_is_a_record(record: dict, text: str) -> None:
    record = {**record, "text": text}
    for separators in ((",", ":"), (", ", ": "), (" , ", " : ")):
        line = json.dumps(record, separators=separators).encode()
        try:
            line.decode().encode("utf-8")
            assert parse(line) == record
        except ValueError as error:
            assert "surrogate" in str(error)  # hypothesis makes them; JSON escapes hide them from encode()


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\ntfu0123de ', max_size=60).map(str.encode))
def test_any_bytes_are_records_or_bad_lines(raw: bytes) -> None:
    block = Block(path="f", unit=0, held=raw)
    out = Part({"rejects": ""})
    records = list(block.records(ReadConfig(), out))
    lines = [line for _, line in block.lines() if line and not line.isspace()]
    assert len(records) + out.counts["bad_lines"] == len(lines) or raw.startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a", "text": "b"}', "'text' stands there twice"),
        (b'{"text": "a", "meta": {"x": 1, "x": 2}}', "'x' stands there twice"),
        (b'{"text" : "a", "id" : 1, "id" : 2}', "'id' stands there twice"),
        (b'{"text": "a\x00b"}', "not JSON"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b'{"text": null}', "holds null, not text"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": "a", "b": ' + b"[" * 500_000 + b"]" * 500_000 + b"}", "not JSON"),
    ],
)
def test_bad_lines_have_a_reason(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(line)


def test_text_with_quotes_and_colons_is_no_repeated_key() -> None:
    record = {"text": 'he said "so": "text": {"a": 1}, \\": x', "a": {"b": {"c": "d"}}}
    assert parse(json.dumps(record).encode()) == record
