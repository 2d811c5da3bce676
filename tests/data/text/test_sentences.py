"""Sentences: Punkt from its parameter files as NLTK itself cuts, and sentencex."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from nltk.tokenize.punkt import PunktLanguageVars, PunktParameters, PunktSentenceTokenizer

from mcc.core.errors import MccError, UsageError
from mcc.data.text.sentences import SentenceConfig, punkt_folder

TEXT = 'Dr. Smith left. He met Mr. Jones on Jan. 5th (at 5 p.m. sharp).  "Is it true?" he asked.\n\nYes!\tNo... maybe. '


def write_punkt(folder: Path) -> Path:
    """Parameters in the four files of punkt_tab."""
    folder.mkdir(parents=True)
    (folder / "abbrev_types.txt").write_text("dr\nmr\njan\np.m\n")
    (folder / "collocations.tab").write_text("##number##\tsharp\n")
    (folder / "sent_starters.txt").write_text("he\nyes\n")
    (folder / "ortho_context.tab").write_text("he\t46\nsmith\t20\n")
    return folder


@pytest.fixture
def punkt(tmp_path: Path) -> Path:
    return write_punkt(tmp_path / "nltk" / "tokenizers" / "punkt_tab" / "english")


def reference(keep_newlines: bool) -> PunktSentenceTokenizer:
    parameters = PunktParameters()
    parameters.abbrev_types = {"dr", "mr", "jan", "p.m"}
    parameters.collocations = {("##number##", "sharp")}
    parameters.sent_starters = {"he", "yes"}
    parameters.ortho_context.update({"he": 46, "smith": 20})

    class Variables(PunktLanguageVars):
        # Megatron-LM's change: the white space belongs to what is matched.
        _period_context_fmt = r"""
            \S*
            %(SentEndChars)s
            \s*
            (?=(?P<after_tok>
                %(NonWord)s
                |
                (?P<next_tok>\S+)
            ))"""

    return PunktSentenceTokenizer(parameters, lang_vars=Variables() if keep_newlines else PunktLanguageVars())


@pytest.mark.parametrize("keep_newlines", [False, True])
def test_punkt_is_nltks(punkt: Path, keep_newlines: bool) -> None:
    split = SentenceConfig(punkt=str(punkt), keep_newlines=keep_newlines).load()
    for text in (TEXT, "", " \n", "One", "A. B. C. d", TEXT * 5):
        assert split(text) == reference(keep_newlines).tokenize(text)
    assert split(TEXT)[0] == ("Dr. Smith left. " if keep_newlines else "Dr. Smith left.")


def test_long_texts_go_to_punkt_in_pieces(punkt: Path) -> None:
    text = "It rains. " * 100_010
    split = SentenceConfig(punkt=str(punkt)).load()
    if find_spec("nltk.redos"):
        assert import_module("nltk.redos").DEFAULT_TIMEOUT is None  # five seconds would end this on a busy machine
    tokenize = reference(False).tokenize
    assert split(text) == tokenize(text[:1_000_000]) + tokenize(text[1_000_000:])


def test_where_punkt_is_looked_for(punkt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (punkt, punkt.parent, tmp_path / "nltk"):
        assert punkt_folder("english", str(given)) == punkt
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    assert punkt_folder() == punkt
    with pytest.raises(MccError, match="no Punkt parameters for german") as caught:
        punkt_folder("german", str(tmp_path / "nltk"))
    assert "mcc data get punkt" in str(caught.value) and "sentencex" in str(caught.value)
    (punkt / "ortho_context.tab").write_text("he\tmany\n")
    with pytest.raises(MccError, match="not Punkt's parameters"):
        SentenceConfig(punkt=str(punkt)).load()
    with pytest.raises(UsageError, match="did you mean 'punkt'"):
        SentenceConfig(splitter="punk")


def test_sentencex() -> None:
    found = SentenceConfig(splitter="sentencex").load()(TEXT)
    assert found[:2] == ["Dr. Smith left.", "He met Mr. Jones on Jan. 5th (at 5 p.m. sharp)."]
    kept = SentenceConfig(splitter="sentencex", keep_newlines=True).load()(TEXT)
    assert "".join(kept) == TEXT and all(piece.strip() for piece in kept)
    german = SentenceConfig(splitter="sentencex", lang="german").load()
    assert german("Das gilt z. B. für Dr. Schmidt. Ja.") == ["Das gilt z. B. für Dr. Schmidt.", "Ja."]
    assert SentenceConfig(splitter="sentencex", lang="zh-hans").load()("很好。再见。") == ["很好。", "再见。"]
    with pytest.raises(UsageError, match="unknown language 'germn'; did you mean 'german'"):
        SentenceConfig(splitter="sentencex", lang="germn")
    with pytest.raises(UsageError, match="no effect on sentencex"):
        SentenceConfig(splitter="sentencex", punkt="folder")
