"""Every document goes to exactly one side, whatever the order."""

from __future__ import annotations

import json

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.holdout import HoldOutConfig, hold_out


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def read(path):
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_every_document_is_on_one_side_in_order(tmp_path):
    texts = [f"document number {i}" for i in range(200)]
    report = hold_out([write(tmp_path / "in.jsonl", texts)], tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    train, aside = read(tmp_path / "a.jsonl"), read(tmp_path / "b.jsonl")
    assert sorted(train + aside) == sorted(texts)
    assert train == [t for t in texts if t in set(train)]
    assert (report.documents_out, report.held_out) == (len(train), len(aside))
    assert 1 <= len(aside) <= 30
    hold_out([write(tmp_path / "in.jsonl", texts[::-1])], tmp_path / "c.jsonl", tmp_path / "d.jsonl")
    assert set(read(tmp_path / "d.jsonl")) == set(aside)


def test_too_few_documents_leave_no_file(tmp_path):
    with pytest.raises(MccError, match="too few"):
        hold_out([write(tmp_path / "in.jsonl", ["one"])], tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl"]


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UsageError, match="between 0 and 1"):
        HoldOutConfig(share=1.0)
