"""The rules of Gopher, C4 and Megatron-LM's scripts: each at its bounds, and against a plain reading of the rule."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.filtering import Rejected, make_filters

PROSE = (
    "The ferry crossed the wide water before sunrise, and nobody on board spoke until it had reached the other side. "
    "A lamp was hung above each door. What did they have to say? There was wind, with rain to follow, and that was all "
    "anybody could think of while the ropes were made fast, the cars drove off one by one and the gulls came back."
)


def keep(name: str, text: str, **options: Any) -> str | Rejected:
    ((_, filter),) = make_filters([name], {name: options})
    return filter.keep(text)


def reason(name: str, text: str, **options: Any) -> str:
    kept = keep(name, text, **options)
    assert isinstance(kept, Rejected), (name, text)
    return kept.reason


def test_good_prose_passes_all() -> None:
    for name in ("gopher-quality", "gopher-repetition", "c4", "javascript"):
        assert keep(name, PROSE) == PROSE


def test_javascript() -> None:
    assert keep("javascript", "x" * 246 + "JavaScript") == "x" * 246 + "JavaScript"
    assert "255 characters" in reason("javascript", "x" * 245 + "JavaScript")
    assert reason("javascript", "x" * 900 + "javaScript", chars=0) == "'javascript'"
    assert keep("javascript", "java script") == "java script"


def test_general_cleaning() -> None:
    for text, cleaned in (
        ("a  b   c", "a b c"),
        ("a\nb", "a b"),
        ("a\n\n b", "a b"),
        ("a\n  b", "a  b"),  # one space behind newlines goes with them, the other stays alone
        ("a.\nb", "a.\nb"),
        ("a \nb", "a \nb"),
        ("\n\na", "\n\na"),
        ("é\nb_\n\nc", "é b_ c"),
    ):
        assert keep("general-cleaning", text) == cleaned


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("word " * 49, {}, "49 words, fewer than 50"),
        ("word " * 11, {"min_words": 1, "max_words": 10}, "11 words, more than 10"),
        ("a b c d " * 20, {}, "words of 1.00 characters on average, fewer than 3"),
        ("incomprehensibility " * 60, {}, "more than 10"),
        (PROSE + " #" * 8, {}, "8 hash signs to"),
        (PROSE + " yes..." * 5 + " no…" * 5, {}, "10 ellipses to"),
        ("\n".join(["- " + PROSE[:60]] * 10), {}, "10 of 10 lines begin with a bullet, more than 90%"),
        (
            "\n".join([PROSE[:60] + "..."] * 4 + [PROSE[:60]] * 6),
            {"max_symbols": 1},
            "4 of 10 lines end with an ellipsis",
        ),
        ("the be 1234 " * 40, {}, "80 of 120 words have a letter, fewer than 80%"),
        ("Rain rain rained raining the " * 20, {}, "1 different stop words, fewer than 2"),
    ],
)
def test_gopher_quality(text: str, options: dict[str, Any], expected: str) -> None:
    assert expected in reason("gopher-quality", text, **options)


def test_gopher_quality_bounds_are_inclusive() -> None:
    options = {"min_mean_word": 0, "min_stop_words": 0}
    assert keep("gopher-quality", "word " * 50, **options) == "word " * 50
    nine = "\n".join(["- " + PROSE[:60]] * 9 + [PROSE])
    assert keep("gopher-quality", nine) == nine
    assert keep("gopher-quality", "“The” (of) words. " * 20) == "“The” (of) words. " * 20


def shares(text: str) -> dict[str, float]:
    """Table A1 of Rae et al. 2021, read plainly."""
    words = text.split()
    total = sum(map(len, words))
    found = {}
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        if n < 5:
            top = max(counts.values(), default=0)
            longest = max((sum(map(len, gram)) for gram, count in counts.items() if count == top), default=0)
            found[f"top_{n}"] = top * longest / total if top > 1 else 0.0
        else:
            covered = {i + j for i, gram in enumerate(grams) if counts[gram] > 1 for j in range(n)}
            found[f"repeated_{n}"] = sum(len(words[i]) for i in covered) / total
    return found


def test_gopher_ngrams_are_the_plain_rule() -> None:
    generator = random.Random(3)
    for _ in range(150):
        words = generator.choices(["a", "bb", "the", "ferry", "crossed", "x", "sunrise"], k=generator.randrange(1, 60))
        if generator.random() < 0.5:
            words += words[: generator.randrange(len(words) + 1)]
        text = " ".join(words)
        lenient = dict.fromkeys(("lines", "paragraphs", "line_chars", "paragraph_chars", *shares(text)), 1.0)
        for name, share in shares(text).items():
            assert keep("gopher-repetition", text, **{**lenient, name: min(share + 1e-9, 1.0)}) == text
            if share > 0:
                why = reason("gopher-repetition", text, **{**lenient, name: max(share - 1e-9, 0.0)})
                assert f"{share:.1%}" in why and f"{name.split('_')[1]}-gram" in why


def test_gopher_lines_and_paragraphs() -> None:
    different = ["A ferry crossed the water.", "Nobody spoke at all.", "Rain fell on the roofs.", "It was a Sunday."]
    text = "\n".join([*different, different[0]])
    lenient = {f"top_{n}": 1.0 for n in (2, 3, 4)} | {f"repeated_{n}": 1.0 for n in range(5, 11)}
    assert keep("gopher-repetition", text, line_chars=1.0, **lenient) == text
    assert "1 of 5 lines repeat" in reason("gopher-repetition", text, lines=0.19, **lenient)
    assert "26 of 111 characters are in lines" in reason("gopher-repetition", text, **lenient)
    paragraphs = "\n\n".join(["one\nline", "one\n line", "one\nline", "two"])
    why = reason("gopher-repetition", paragraphs, lines=1.0, line_chars=1.0, paragraphs=0.2, **lenient)
    assert why.startswith("1 of 4 paragraphs repeat")
    assert keep("gopher-repetition", "") == ""


def test_c4(tmp_path: Path) -> None:
    lines = [
        "The ferry crossed the water before sunrise [1].",
        "Nobody on board spoke a word.[citation needed]",
        'Then somebody said to them: "Look over there!"',
        "Home",
        "This line does not end as it should",
        "It goes on and on and on...",
        "Too short here.",
        "Please enable Javascript to see this page.",
        "By reading on you accept our Privacy Policy here.",
    ]
    kept = keep("c4", "\n".join(lines))
    assert kept == (
        "The ferry crossed the water before sunrise.\nNobody on board spoke a word.\n"
        'Then somebody said to them: "Look over there!"'
    )
    everything = {"terminal": False, "javascript": False, "policy": False, "citations": False, "min_line_words": 0}
    assert keep("c4", "\n".join(lines), **everything) == "\n".join(lines)
    assert reason("c4", "\n".join(lines), min_sentences=4) == "3 sentences, fewer than 4"
    assert reason("c4", PROSE + "{") == "a curly bracket" and keep("c4", PROSE + " {}.", curly_bracket=False)
    assert reason("c4", "Lorem ipsum dolor. " + PROSE) == "lorem ipsum"
    (tmp_path / "words.txt").write_text("gulls\nc++\n\n", encoding="utf-8")
    assert reason("c4", PROSE, bad_words=str(tmp_path / "words.txt")) == "the word 'gulls'"
    (tmp_path / "words.txt").write_text("gull\n", encoding="utf-8")
    assert keep("c4", PROSE, bad_words=str(tmp_path / "words.txt")) == PROSE


def test_min_tokens(tokenizer: Path) -> None:
    text = "the quick brown fox"
    assert reason("min-tokens", text, tokens=5, count_end=False) == "4 words, fewer than 5"
    assert keep("min-tokens", text, tokens=5, count_end=True) == text
    assert keep("min-tokens", text, tokens=99, below_chars=len(text)) == text
    assert isinstance(keep("min-tokens", text, tokens=99, below_chars=len(text) + 1), Rejected)
    from mcc.data.tokenizer import load_tokenizer

    made = load_tokenizer(tokenizer)
    generator = random.Random(1)
    for _ in range(200):
        words = generator.choices(
            ["fox", "the", "\n", "  ", "foxes\n\n", "x" * 40, "é", "?!"], k=generator.randrange(12)
        )
        text = "".join(words)
        count = len(made.encode(text))
        for tokens in (count - 1, count, count + 1):
            kept = keep("min-tokens", text, tokens=max(tokens, 0), tokenizer=str(tokenizer))
            assert isinstance(kept, Rejected) == (count < max(tokens, 0)), text


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("min-tokens", {"tokens": -1}, UsageError),
        ("min-tokens", {"vocab_file": "vocab.json"}, UsageError),
        ("min-tokens", {"vocab_file": "vocab.json", "merge_file": "m", "tokenizer": "t"}, UsageError),
        ("min-tokens", {"tokenizer": "no-such-file"}, MccError),
        ("javascript", {"chars": -1}, UsageError),
        ("gopher-quality", {"min_words": -1}, UsageError),
        ("gopher-repetition", {"top_2": 1.5}, UsageError),
        ("c4", {"min_sentences": -1}, UsageError),
        ("c4", {"bad_words": "no-such-file"}, MccError),
        ("ftfy", {"max_decode_length": 0}, UsageError),
        ("ftfy", {"normalization": "NFX"}, UsageError),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        keep(name, "", **options)


def test_bad_lists_of_words(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"\n\n")
    with pytest.raises(MccError, match="holds no words"):
        keep("c4", "", bad_words=str(tmp_path / "words.txt"))
    (tmp_path / "words.txt").write_bytes(b"\xff")
    with pytest.raises(MccError, match="not UTF-8"):
        keep("c4", "", bad_words=str(tmp_path / "words.txt"))
