"""The contract of filters, over all of them; and the step that applies them."""

from __future__ import annotations

import dataclasses
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcc.core.config import build, option
from mcc.core.config import settings as settings_of
from mcc.core.errors import UsageError
from mcc.data.filtering import FILTERS, CleanConfig, Filter, Rejected, clean, make_filters
from tests.data.conftest import Write, read

NAMES = FILTERS.names()
ENGLISH = "The ferry crossed the water before sunrise, and nobody on board spoke until it had reached the other side. "
TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from([ENGLISH, "Ã¼ber ", "“ x ” ", "\r\n", "\u2028", "\x00", " ,", "&amp;", "İ"])).map("".join),
)


@cache
def made(name: str) -> Filter[Any]:
    return FILTERS.get(name)()


def test_there_are_filters() -> None:
    assert {"ftfy", "language", "min-chars", "min-tokens", "whitespace", "punctuation"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_contract(name: str, text: str) -> None:
    """Any text gets the same answer from this filter and from a new one: a text, or a reason of one line."""
    kept = made(name).keep(text)
    assert kept == made(name).keep(text) == FILTERS.get(name)().keep(text)
    if isinstance(kept, Rejected):
        assert kept.reason and "\n" not in kept.reason
    else:
        kept.encode()  # no lone surrogates come out


@pytest.mark.parametrize("name", NAMES)
def test_options(name: str) -> None:
    cls = FILTERS.get(name)
    assert dataclasses.is_dataclass(cls.Options) and cls.Options.__dataclass_params__.frozen
    assert all(setting.help for setting in settings_of(cls.Options))
    assert FILTERS.describe(name)
    made = cls(build(cls.Options, {}))
    assert pickle.loads(pickle.dumps(made.options)) == made.options
    with pytest.raises(UsageError, match="unknown key"):
        build(cls.Options, {"no_such_option": 1})


def keep(name: str, text: str, **options: Any) -> str | Rejected:
    ((_, filter),) = make_filters([name], {name: options})
    return filter.keep(text)


def test_bounds_are_inclusive() -> None:
    assert keep("min-chars", "abc", chars=3) == "abc" and isinstance(keep("min-chars", "ab", chars=3), Rejected)
    assert keep("min-tokens", "a b c", tokens=3) == "a b c" and isinstance(
        keep("min-tokens", "a b", tokens=3), Rejected
    )


def test_tokens_of_a_tokenizer(tokenizer: Path) -> None:
    text = "foxes"
    assert keep("min-tokens", text, tokens=2, tokenizer=str(tokenizer)) == text
    assert keep("min-tokens", text, tokens=99, tokenizer=str(tokenizer)).reason.endswith("tokens, fewer than 99")


def test_language_is_langdetects_answer() -> None:
    import langdetect

    texts = {
        "en": ENGLISH,
        "fr": "Le bateau traversa la rivière avant le lever du soleil, et personne ne parla.",
        "de": "Die Fähre überquerte das Wasser vor Sonnenaufgang, und niemand sprach ein Wort.",
        "ru": "Паром пересёк воду до восхода солнца, и никто не говорил ни слова.",
        "ja": "フェリーは日の出前に海を渡り、誰も話さなかった。",
    }
    langdetect.DetectorFactory.seed = 0
    for lang, text in texts.items():
        assert langdetect.detect(text) == lang
        assert keep("language", text, lang=lang) == text
        other = "en" if lang != "en" else "de"
        assert keep("language", text, lang=other) == Rejected(f"{lang}, not {other}")
    assert keep("language", "12345 !!").reason.startswith("no language")
    with pytest.raises(UsageError, match="unknown language 'eng'; did you mean 'en'"):
        keep("language", "", lang="eng")


def test_ftfy_options() -> None:
    assert keep("ftfy", "“schÃ¶n” &lt;b&gt;") == '"schön" <b>'
    assert keep("ftfy", "“x”", uncurl_quotes=False) == "“x”"
    assert keep("ftfy", "e\u0301", normalization="none") == "e\u0301" and keep("ftfy", "e\u0301") == "é"


def test_whitespace_keeps_indentation() -> None:
    assert (
        keep("whitespace", "def f():\r\n    return\u00a01   \n\n\n\n\nend\ufeff\n") == "def f():\n    return 1\n\nend"
    )


def test_punctuation_options() -> None:
    assert keep("punctuation", "It ’s fine , he said .") == "It's fine, he said."
    assert keep("punctuation", "“a” , b", ascii=False, detokenize=False) == "“a” , b"
    code = "  x = f(a, b); y = 2"
    assert keep("punctuation", code) == code


def test_clean(jsonl: Write, tmp_path: Path) -> None:
    long = ENGLISH * 8
    german = "Die Fähre überquerte das Wasser vor Sonnenaufgang, und niemand sprach ein Wort. " * 8
    documents = [{"id": 1, "text": long}, {"id": 2, "text": ENGLISH}, {"id": 3, "text": german}, "\n"]
    path = jsonl("in.jsonl", documents)
    report = clean([path], tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == [{"id": 1, "text": long.rstrip()}]
    assert report.rejected == {"language": 1, "min-chars": 1, "whitespace": 1}
    assert (report.documents_in, report.documents_out, report.changed) == (4, 1, {"whitespace": 1})
    rejected = read(tmp_path / "out.rejects.jsonl")
    assert rejected[1] == {"reason": "language: de, not en", "where": f"{path}:3", "id": 3, "text": german}


def test_workers_give_the_same(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [ENGLISH * (i % 9) + "Ã¼ end." for i in range(100)])
    config = {"filters": ("ftfy", "language", "min-chars")}
    reports = [
        clean([path], tmp_path / f"{workers}.jsonl", CleanConfig(workers=workers, **config)) for workers in (1, 2)
    ]
    assert reports[0].rejected == reports[1].rejected and reports[0].changed == reports[1].changed
    for ending in ("jsonl", "rejects.jsonl"):
        assert (tmp_path / f"1.{ending}").read_bytes() == (tmp_path / f"2.{ending}").read_bytes()


def test_wrong_settings() -> None:
    for options, message in (
        ({"filters": ("ftfyy",)}, "did you mean 'ftfy'"),
        ({"filters": ()}, "no filters"),
        ({"filters": ("ftfy",), "options": {"language": {"lang": "de"}}}, "options for filter 'language'"),
        ({"filters": ("language",), "options": {"language": {"language": "de"}}}, "did you mean 'lang'"),
        ({"filters": ("min-chars",), "options": {"min-chars": {"chars": "many"}}}, "chars"),
        ({"workers": 0}, "workers"),
    ):
        with pytest.raises(UsageError, match=message):
            CleanConfig(**options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShoutOptions:
    mark: str = option("!", "what is put behind a text")


class Shout(Filter[ShoutOptions]):
    """Put a mark behind a text; stands in for a filter of a user's own package."""

    Options = ShoutOptions

    def keep(self, text: str) -> str:
        return text.upper() + self.options.mark


def test_a_filter_of_another_package(monkeypatch: pytest.MonkeyPatch, jsonl: Write, tmp_path: Path) -> None:
    from importlib.metadata import EntryPoint

    point = EntryPoint("shout", f"{__name__}:Shout", "mcc.filter")
    monkeypatch.setattr("mcc.core.plugins.entry_points", lambda group: [point] if group == "mcc.filter" else [])
    clean(
        [jsonl("in.jsonl", ["ho"])],
        tmp_path / "o.jsonl",
        CleanConfig(filters=("shout",), options={"shout": {"mark": "?"}}),
    )
    assert read(tmp_path / "o.jsonl") == [{"text": "HO?"}]
