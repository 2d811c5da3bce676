"""The filter `language`: keeps text of one language."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mcc.core.config import option
from mcc.core.errors import unknown
from mcc.data.filtering import Filter, Rejected


@dataclass(frozen=True, kw_only=True)
class LanguageOptions:
    """Which language, and how it is told."""

    lang: str = option("en", "language to keep, as langdetect names it (en, de, zh-cn, ...)")
    seed: int = option(0, "seed of langdetect, which samples the text")


class Language(Filter[LanguageOptions]):
    """Keep text that langdetect (Nakatani 2010) takes for the wanted language.

    Raises:
        UsageError: langdetect does not know the language.

    >>> Language().keep("Der schnelle braune Fuchs springt über den faulen Hund.")
    Rejected(reason='de, not en')
    """

    Options = LanguageOptions

    def __init__(self, options: LanguageOptions | None = None) -> None:
        super().__init__(options)
        # A factory of our own: langdetect's global one has a seed that others may set.
        self._factory = _factory(self.options.seed)
        if self.options.lang not in self._factory.langlist:
            raise unknown("language", self.options.lang, self._factory.langlist)

    def keep(self, text: str) -> str | Rejected:
        """The text as it is, when it is of the language."""
        from langdetect.lang_detect_exception import LangDetectException

        detector = self._factory.create()
        detector.append(text)
        try:
            found = detector.detect()
        except LangDetectException:
            return Rejected(f"no language can be told, not {self.options.lang}")
        return text if found == self.options.lang else Rejected(f"{found}, not {self.options.lang}")


@cache
def _factory(seed: int) -> Any:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    # Sorted: the order of files in a folder is not the same on every machine.
    profiles = sorted(path for path in Path(PROFILES_DIRECTORY).iterdir() if not path.name.startswith("."))
    factory.load_json_profile([path.read_text(encoding="utf-8") for path in profiles])
    factory.set_seed(seed)
    return factory
