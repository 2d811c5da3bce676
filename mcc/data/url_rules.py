"""Which addresses are worth fetching: rules on the URL alone, after Megatron-LM's blacklist_urls.py."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcc.core.config import option, read_toml
from mcc.core.errors import MccError, UsageError
from mcc.core.files import require_file
from mcc.data.base.records import ReadConfig

_LISTS = Path(__file__).with_name("url_lists.toml")
# In the order in which they are tried; `duplicate` is decided over all documents. 0 keeps a URL.
KINDS = ("", "domain", "extension", "short", "malformed", "pattern", "duplicate")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = rf"(?:(?:{_LABEL}\.)+[a-z0-9-]{{2,}}\.?|\d{{1,3}}(?:\.\d{{1,3}}){{3}})"
_WELL_FORMED = re.compile(rf"https?://{_HOST}(?::\d+)?(?:/|[/?]\S+)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//(?:[^/?#]*@)?([^/?#:]*)", re.IGNORECASE)
# Hosts whose name is remembered.
_REMEMBERED = 20_000


@dataclass(frozen=True, kw_only=True)
class UrlsConfig:
    """What is refused.

    Raises:
        UsageError: a pattern is no regular expression, or a number is out of bounds.
    """

    key: str = option("url", "key that holds the URL in records")
    domains: tuple[str, ...] = option((), "more names (example, or a host with all below it) to refuse")
    domain_files: tuple[str, ...] = option((), "files of such names, one a line")
    extensions: tuple[str, ...] = option((), "more endings to refuse")
    extension_files: tuple[str, ...] = option((), "files of endings, one a line")
    patterns: tuple[str, ...] = option((), "regular expressions: a URL in which one is found is refused")
    pattern_files: tuple[str, ...] = option((), "files of regular expressions, one a line")
    lists: bool = option(True, "use the lists that come with mcc")
    min_chars: int = option(9, "characters of the shortest URL that is kept")
    malformed: bool = option(True, "refuse what is no http(s) URL")
    duplicates: bool = option(True, "refuse URLs that stood there before")
    workers: int = option(1, "processes")
    read: ReadConfig = field(default_factory=lambda: ReadConfig(keys=("url",)))

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers = {self.workers} must be at least 1")
        if self.min_chars < 0:
            raise UsageError(f"min_chars = {self.min_chars} must not be negative")


class UrlRules:
    """The rules on one URL.

    Raises:
        MccError: a list cannot be read.
        UsageError: a pattern is no regular expression.
    """

    def __init__(self, config: UrlsConfig) -> None:
        known = read_toml(_LISTS) if config.lists else {"domains": [], "extensions": []}
        domains = {*known["domains"], *config.domains, *_listed(config.domain_files)}
        self._names = frozenset(name.lower().strip(".") for name in domains if "." not in name.strip("."))
        self._hosts = frozenset(name.lower().strip(".") for name in domains if "." in name.strip("."))
        endings = {*known["extensions"], *config.extensions, *_listed(config.extension_files)}
        self._endings = tuple(sorted(f".{ending.lower().lstrip('.')}" for ending in endings))
        self._pattern = _pattern([*config.patterns, *_listed(config.pattern_files)])
        self._config = config
        self._extract = _suffixes()
        self._verdicts: dict[str, str] = {}

    def judge(self, url: str) -> int:
        """The place in `KINDS` of what is wrong, 0 when nothing is."""
        if self._refused_host(url):
            return 1
        if self._endings and url.split("?", 1)[0].lower().endswith(self._endings):
            return 2
        if len(url) < self._config.min_chars:
            return 3
        if self._config.malformed and not _WELL_FORMED.fullmatch(url):
            return 4
        if self._pattern is not None and self._pattern.search(url):
            return 5
        return 0

    def reason(self, url: str, kind: int) -> str:
        """One line on what is wrong with `url`."""
        if KINDS[kind] == "domain":
            return self._refused_host(url)
        if KINDS[kind] == "extension":
            path = url.split("?", 1)[0].lower()
            return max((ending for ending in self._endings if path.endswith(ending)), key=len)
        if KINDS[kind] == "pattern":
            assert self._pattern is not None
            found = self._pattern.search(url)
            assert found is not None
            return found.group() or "a match of no characters"
        return {
            "short": f"{len(url)} characters, fewer than {self._config.min_chars}",
            "malformed": "no http(s) URL",
            "duplicate": "stood there before",
        }[KINDS[kind]]

    def _refused_host(self, url: str) -> str:
        """The name on the list that the URL's host falls under, or an empty string."""
        found = _AUTHORITY.match(url)
        # Without a scheme and slashes it begins with the host.
        host = (found[1] if found else re.split(r"[/?#:]", url, maxsplit=1)[0]).lower().rstrip(".")
        verdict = self._verdicts.get(host)
        if verdict is None:
            if len(self._verdicts) >= _REMEMBERED:
                self._verdicts.clear()
            verdict = self._verdicts[host] = self._listed_name(host)
        return verdict

    def _listed_name(self, host: str) -> str:
        labels = host.split(".")
        for start in range(len(labels) - 1):
            if ".".join(labels[start:]) in self._hosts:
                return ".".join(labels[start:])
        # Most hosts hold no label of the list: the public suffix does not matter then.
        if self._names.isdisjoint(labels):
            return ""
        name: str = self._extract(host).domain
        return name if name in self._names else ""


def _suffixes() -> Any:
    """Splits hosts by the list of public suffixes that the package carries: nothing is downloaded or cached."""
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None)


def _listed(files: Sequence[str]) -> Iterable[str]:
    """The lines of files, without blank ones and those that begin with #."""
    for name in files:
        path = require_file(name, "list")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise MccError(f"{path} is not UTF-8: {error}", "give one entry a line") from None
        yield from (line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def _pattern(patterns: Sequence[str]) -> re.Pattern[str] | None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(f"pattern {pattern!r} is no regular expression: {error}") from None
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns)) if patterns else None
