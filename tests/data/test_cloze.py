"""The cloze task: every passage keeps the rule, and the seed decides which are taken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.data.cloze import ClozeConfig, cloze, make_cloze, passages
from tests.data.conftest import Write, read

DOCUMENT = (
    "The ferry left the harbour at dawn. Nobody on board had slept, and the captain watched the harbour grow small "
    "behind the ferry while gulls followed it.\n\nMuch later the ferry came back to the same harbour with twice as "
    "many people, and the captain counted every passenger before he left the ferry. "
)


def check(passage: str, text: str, config: ClozeConfig) -> None:
    words = passage.split()
    assert passage in text
    assert config.min_words <= len(words) <= config.max_words
    target = words[-1]
    assert re.fullmatch(r"[A-Za-z]{4,}", target) and passage.endswith(f" {target}")
    assert not passage[: -len(target) - 1].endswith((" ", "\n"))
    assert target.lower() in [word.strip(".,;:!?\"'`*()[]{}").lower() for word in words[:-1]]
    before = [text[: found.start()].rstrip(" ") for found in re.finditer(f"(?={re.escape(passage)})", text)]
    assert any(one == "" or one.endswith((".", "!", "?", ":", "\n\n")) for one in before)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["ferry", "harbour", "that", "x1", "dawn.", "It", "ran,", "ferry\n", "\n\n", "  a"]),
        max_size=60,
    ),
    st.integers(2, 8),
    st.integers(0, 10),
)
def test_every_passage_keeps_the_rule(words: list[str], low: int, more: int) -> None:
    text = " ".join(words)
    config = ClozeConfig(min_words=low, max_words=low + more)
    for passage in passages(text, config):
        check(passage, text, config)


def test_passages_of_a_text() -> None:
    config = ClozeConfig(min_words=8, max_words=30)
    found = passages(DOCUMENT, config)
    targets = [passage.split()[-1] for passage in found]
    assert len(found) >= 3 and set(targets) <= {"harbour", "ferry", "captain"}
    assert all(len(passage.split()) <= 30 for passage in found)


def test_longest_context_within_the_bound() -> None:
    text = "One ferry here. Two ferry there. Three lines ferry"
    assert passages(text, ClozeConfig(min_words=2, max_words=9))[-1] == text
    assert passages(text, ClozeConfig(min_words=2, max_words=8))[-1] == "Two ferry there. Three lines ferry"


def test_choice_by_seed_and_bounds() -> None:
    documents = [{"text": DOCUMENT.replace("ferry", f"boat{'abcdefghij'[i % 10]}") * 5} for i in range(50)]
    config = ClozeConfig(count=30, min_words=8, max_words=30, per_document=2)
    first, candidates = make_cloze(iter(documents), config)
    assert len(first) == 30 < candidates
    assert first == make_cloze(iter(documents), config)[0]
    other = make_cloze(iter(documents), ClozeConfig(count=30, min_words=8, max_words=30, per_document=2, seed=7))[0]
    assert first != other
    everything, _ = make_cloze(iter(documents), ClozeConfig(count=10_000, min_words=8, max_words=30, per_document=2))
    assert len(everything) == 100


def test_written_as_lambada(jsonl: Write, tmp_path: Path) -> None:
    report = cloze([jsonl("in.jsonl", [DOCUMENT] * 3)], tmp_path / "out.jsonl", ClozeConfig(min_words=8, count=2))
    records = read(tmp_path / "out.jsonl")
    assert len(records) == 2 == report.documents_out and all(set(record) == {"text"} for record in records)


def test_no_passage(jsonl: Write, tmp_path: Path) -> None:
    with pytest.raises(MccError, match="no passage of 20 to 60 words in 1 documents"):
        cloze([jsonl("in.jsonl", ["too short"])], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    for options in ({"count": 0}, {"min_words": 9, "max_words": 8}, {"per_document": 0}):
        with pytest.raises(UsageError):
            ClozeConfig(**options)
