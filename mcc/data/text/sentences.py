"""Texts cut into sentences.

`punkt` is NLTK's Punkt (Kiss and Strunk 2006), what Megatron-LM uses, with parameters that somebody has downloaded.
`sentencex` (Wikimedia, MIT) brings its rules along and needs no download; its sentences differ.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError, unknown
from mcc.data.text.long_texts import no_time_limit

SPLITTERS = ("punkt", "sentencex")
# Megatron-LM hands Punkt a long text in pieces of so many characters.
_PIECE_CHARS = 1_000_000
_LANGUAGES = {
    "czech": "cs",
    "danish": "da",
    "dutch": "nl",
    "english": "en",
    "estonian": "et",
    "finnish": "fi",
    "french": "fr",
    "german": "de",
    "greek": "el",
    "italian": "it",
    "norwegian": "no",
    "polish": "pl",
    "portuguese": "pt",
    "russian": "ru",
    "slovene": "sl",
    "spanish": "es",
    "swedish": "sv",
    "turkish": "tr",
}
# sentencex takes the code of any language too, and falls back on a language near it.
_CODE = re.compile(r"[a-z]{2,3}(-[a-z0-9]+)*")
_FILES = ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab")

# From a text to its sentences.
Split = Callable[[str], list[str]]


@dataclass(frozen=True, kw_only=True)
class SentenceConfig:
    """How texts are cut into sentences.

    Raises:
        UsageError: the splitter or the language is unknown, or Punkt's parameters are given to another splitter.
    """

    splitter: str = option("punkt", "punkt (as Megatron-LM) or sentencex (needs no download)")
    lang: str = option("english", "language of the texts, by its English name")
    keep_newlines: bool = option(False, "keep the white space between sentences, at the end of the one before")
    punkt: str | None = option(None, "folder of Punkt's parameters; default: where NLTK looks for punkt_tab")

    def __post_init__(self) -> None:
        if self.splitter not in SPLITTERS:
            raise unknown("sentence splitter", self.splitter, SPLITTERS)
        if self.splitter == "sentencex":
            if self.punkt is not None:
                raise UsageError("Punkt's parameters have no effect on sentencex", "leave out --punkt, or use punkt")
            if self.lang not in _LANGUAGES and not _CODE.fullmatch(self.lang):
                raise unknown("language", self.lang, _LANGUAGES)

    def load(self) -> Split:
        """The splitter.

        Raises:
            MccError: Punkt's parameters are not there.
            UsageError: the language is unknown.
        """
        if self.splitter == "sentencex":
            return _sentencex(_LANGUAGES.get(self.lang, self.lang), self.keep_newlines)
        return _punkt(punkt_folder(self.lang, self.punkt), self.keep_newlines)


def punkt_folder(lang: str = "english", given: str | None = None) -> Path:
    """Where the parameters of a language are: in `given` (or its `tokenizers/punkt_tab`), or where NLTK finds them.

    Raises:
        MccError: they are nowhere.
    """
    from nltk import data

    roots = [Path(given)] if given else [Path(folder) for folder in data.path if folder]
    if not given and "NLTK_DATA" in os.environ:
        roots = [Path(folder) for folder in os.environ["NLTK_DATA"].split(os.pathsep) if folder] + roots
    for root in roots:
        for folder in (root, root / lang, root / "punkt_tab" / lang, root / "tokenizers" / "punkt_tab" / lang):
            if all((folder / name).is_file() for name in _FILES):
                return folder
    where = given or "NLTK's data folders"
    raise MccError(
        f"no Punkt parameters for {lang} in {where}",
        "mcc data get punkt, or --punkt FOLDER; without a download: --sentence-splitter sentencex",
    )


def _punkt(folder: Path, keep_newlines: bool) -> Split:
    from nltk.tokenize.punkt import PunktLanguageVars, PunktParameters, PunktSentenceTokenizer

    no_time_limit()

    class KeepsSpace(PunktLanguageVars):
        # The white space behind a sentence's end belongs to the match, and so to the sentence (Megatron-LM).
        _period_context_fmt = r"\S*%(SentEndChars)s\s*(?=(?P<after_tok>%(NonWord)s|(?P<next_tok>\S+)))"

    parameters = PunktParameters()
    try:
        parameters.collocations = {tuple(line.split("\t")) for line in _lines(folder, "collocations.tab")}
        parameters.sent_starters = set(_lines(folder, "sent_starters.txt"))
        parameters.abbrev_types = set(_lines(folder, "abbrev_types.txt"))
        pairs = (line.split("\t") for line in _lines(folder, "ortho_context.tab"))
        parameters.ortho_context.update({word: int(number) for word, number in pairs})
    except ValueError as error:
        raise MccError(f"{folder}: not Punkt's parameters: {error}", "mcc data get punkt") from error
    variables = KeepsSpace() if keep_newlines else PunktLanguageVars()
    tokenize: Callable[[str], list[str]] = PunktSentenceTokenizer(parameters, lang_vars=variables).tokenize

    def split(text: str) -> list[str]:
        if len(text) <= _PIECE_CHARS:
            return tokenize(text)
        starts = range(0, len(text), _PIECE_CHARS)
        return [sentence for start in starts for sentence in tokenize(text[start : start + _PIECE_CHARS])]

    return split


def _lines(folder: Path, name: str) -> list[str]:
    return [line for line in (folder / name).read_text(encoding="utf-8").split("\n") if line]


def _sentencex(language: str, keep_newlines: bool) -> Split:
    try:
        import sentencex
    except ImportError as error:
        raise UsageError("the sentence splitter sentencex is not installed", "pip install sentencex") from error
    segment: Any = sentencex.segment

    def split(text: str) -> list[str]:
        pieces: list[str] = segment(language, text)
        if not keep_newlines:
            return [piece for piece in map(str.strip, pieces) if piece]
        sentences: list[str] = []
        for piece in pieces:
            if sentences and not piece.strip():
                sentences[-1] += piece
            else:
                sentences.append(piece)
        return sentences

    return split
