"""The filter `language`: keeps text of one language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mcc.core.config import option
from mcc.core.errors import UsageError, unknown
from mcc.data.filtering import Filter, Rejected


@dataclass(frozen=True, kw_only=True)
class LanguageOptions:
    """Which language, and how it is told.

    Raises:
        UsageError: a bound is out of range.
    """

    lang: str = option("en", "language to keep, as the engine names it (en, de, zh-cn, ...)")
    engine: Literal["langdetect", "fasttext", "langid"] = option("langdetect", "what tells the language")
    threshold: float = option(0.0, "least probability of the language, 0 to 1")
    seed: int = option(0, "seed of langdetect, which samples the text")
    model: str = option("", "model file for engine fasttext, for example lid.176.bin; default: lid.176.ftz")
    below_chars: int = option(0, "judge only texts with fewer characters, keep all others; 0: judge all")

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"language: threshold = {self.threshold} must be from 0 to 1")
        if self.below_chars < 0:
            raise UsageError(f"language: below_chars = {self.below_chars} must not be negative")


class Language(Filter[LanguageOptions]):
    """Keep text that langdetect, fastText or langid takes for the wanted language.

    Raises:
        UsageError: the engine does not know the language, or is not installed.

    >>> Language().keep("Der schnelle braune Fuchs springt über den faulen Hund.")
    Rejected(reason='de, not en')
    """

    Options = LanguageOptions

    def __init__(self, options: LanguageOptions | None = None) -> None:
        super().__init__(options)
        from mcc.data.text import languages

        self._engine = languages.make(self.options.engine, self.options.seed, self.options.model)
        if self._engine.languages and self.options.lang not in self._engine.languages:
            raise unknown("language", self.options.lang, self._engine.languages)

    def keep(self, text: str) -> str | Rejected:
        """The text as it is, when it is of the language."""
        if 0 < self.options.below_chars <= len(text):
            return text
        found, probability = self._engine.find(text)
        if found is None:
            return Rejected(f"no language can be told, not {self.options.lang}")
        if found != self.options.lang:
            return Rejected(f"{found}, not {self.options.lang}")
        if probability < self.options.threshold:
            return Rejected(f"{found} with probability {probability:.2f}, less than {self.options.threshold:g}")
        return text
