"""Text that is given out as it comes is whole characters, never taken back, and all of the text at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.eval.generation.writing import Writing
from mcc.eval.tokenizer import TextTokenizer


def written(writing: Writing, tokens: list[int]) -> list[str]:
    """What is given out after each token, up to the end."""
    parts = []
    for token in tokens:
        parts.append(writing.extend(token))
        if writing.finish is not None:
            break
    return parts


@settings(deadline=None, max_examples=40)
@given(text=st.text(min_size=1, max_size=30), prompt=st.text(max_size=12))
def test_parts_are_the_text(tokenizer: TextTokenizer, text: str, prompt: str) -> None:
    tokens = tokenizer.encode(text)
    parts = written(Writing(tokenizer, tokenizer.encode(prompt), len(tokens)), tokens)
    assert "".join(parts) == tokenizer.decode(tokens)
    assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_tokens_are_their_text(tokenizer: TextTokenizer, data: st.DataObject) -> None:
    """Bytes that are no characters come out as they would at the end."""
    tokens = data.draw(st.lists(st.integers(1, tokenizer.size - 1), min_size=1, max_size=30))
    writing = Writing(tokenizer, [], len(tokens))
    assert "".join(written(writing, tokens)) == writing.text == tokenizer.decode(tokens)
    assert writing.finish == "length"


def test_a_character_of_several_tokens_comes_at_once(tokenizer: TextTokenizer) -> None:
    tokens = tokenizer.encode("a😀b")
    assert len(tokens) == 6, "four bytes"
    assert written(Writing(tokenizer, [], 9), tokens) == ["a", "", "", "", "😀", "b"]


@settings(deadline=None, max_examples=40)
@given(text=st.text("abcd ", max_size=25), stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_stop_strings(tokenizer: TextTokenizer, text: str, stops: list[str]) -> None:
    """The text ends before the first of them, and nothing of it was given out before."""
    tokens = tokenizer.encode(text)
    writing = Writing(tokenizer, [], len(tokens) + 1, stops)
    parts = written(writing, tokens)
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert writing.finish == ("stop" if ends else None)
    if ends:
        # Of those that one token completes the first counts, of those before it too.
        assert "".join(parts) == writing.text == text[: min(ends)]
    else:
        assert writing.text == text
        assert text.startswith("".join(parts))
        assert len(text) - len("".join(parts)) < max(map(len, stops), default=1)


def test_the_end_of_text_has_no_text(tokenizer: TextTokenizer) -> None:
    writing = Writing(tokenizer, [], 9, ends=(0, 5))
    tokens = tokenizer.encode("is it")
    assert "".join(written(writing, [*tokens, 5, 1])) == "is it"
    assert (writing.tokens, writing.finish) == ([*tokens, 5], "eos")


def test_a_space_after_the_prompt_is_kept(tmp_path: Path) -> None:
    """Tokenizers like Llama 2's drop a text's first space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"▁the": 0, "▁river": 1, "s": 2, "<unk>": 3}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.decode([1]) == "river"
    assert written(Writing(tokenizer, [0], 3), [1, 2, 1]) == [" river", "s", " river"]


def test_a_copy_goes_its_own_way(tokenizer: TextTokenizer) -> None:
    first = Writing(tokenizer, [], 9)
    tokens = tokenizer.encode("is 😀")
    written(first, tokens[:-1])
    second = first.copy()
    second.extend(tokens[-1])
    first.extend(tokenizer.encode("x")[0])
    assert second.text == "is 😀"
    assert first.text.startswith("is ") and first.text.endswith("x")
    with pytest.raises(AssertionError, match="has ended"):
        written(Writing(tokenizer, [], 1), tokens[:1]) and first.copy()
        ended = Writing(tokenizer, [], 1)
        ended.extend(1)
        ended.extend(1)
