"""Files over HTTP: taken up where a broken download ended, checked, and there under their name only when whole.

On top of `requests`. The unfinished file stands hidden beside its final name, with what the server said of it: only
if the server still has the same file (`If-Range`) is the rest fetched, otherwise all of it again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

import mcc
from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import partial_path, remove, write_text

_PIECE_BYTES = 1 << 18
# Seconds without a byte after which a connection counts as lost.
_TIMEOUT_S = (20, 60)
# Tries without any progress, and the pause before each, in seconds.
_PAUSES_S = (1, 4, 15)
# Statuses that may go away.
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_HEADERS = {"User-Agent": f"mcc/{mcc.__version__}", "Accept-Encoding": "identity"}


class Unreachable(MccError):
    """No address gave the file: there is no network, or it is not there any more."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file that is there.

    Args:
        state: `downloaded`, `resumed`, or `there already`.
        checksum: what it was compared with, None if there is nothing to compare with.
    """

    path: str
    url: str | None
    size: int
    state: str
    checksum: str | None


def fetch(
    urls: Sequence[str],
    path: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    reporter: Reporter = SILENT,
    pauses_s: Sequence[float] = _PAUSES_S,
) -> Fetched:
    """Make sure that `path` is the file behind one of `urls`.

    Args:
        urls: tried in order.
        size: in bytes, if it is known.
        checksum: `ALGORITHM:HEX`, for example `sha256:...`, if it is known.
        pauses_s: before each further try when a connection breaks without progress.

    Raises:
        Unreachable: none of the addresses has it.
        MccError: it is not the file that was expected, or the connection broke again and again; what came stays, and
            the next call goes on from there.
    """
    if path.exists():
        _check(path, path, size, checksum, "delete it, or choose another folder with -o")
        return Fetched(path=str(path), url=None, size=path.stat().st_size, state="there already", checksum=checksum)
    problems = []
    for url in urls:
        try:
            state = _Download(url, path, size, reporter, pauses_s).run()
        except _Failed as failed:
            problems.append(f"{urlsplit(url).netloc}: {failed}")
            continue
        partial = partial_path(path)
        try:
            _check(partial, path, size, checksum, f"{url} has another file now")
        except MccError:
            _forget(path)
            if state != "resumed":
                raise
            # The first part may have been of another file: once more from the start.
            reporter.warn(f"{path}: the parts do not fit together; fetching it again")
            return fetch([url], path, size=size, checksum=checksum, reporter=reporter, pauses_s=pauses_s)
        partial.replace(path)
        _forget(path)
        return Fetched(path=str(path), url=url, size=path.stat().st_size, state=state, checksum=checksum)
    raise Unreachable(f"cannot download {path.name}: {'; '.join(problems)}", "check the network, or get it by hand")


def fetch_text(url: str) -> str:
    """A short text.

    Raises:
        Unreachable: it cannot be had.
    """
    try:
        response = requests.get(url, headers=_HEADERS, timeout=_TIMEOUT_S)
        response.raise_for_status()
    except requests.RequestException as error:
        raise Unreachable(f"cannot download {url}: {_why(error)}") from error
    return response.text


class _Failed(Exception):
    """This address does not give the file."""


class _Download:
    """One address, with as many connections as it takes."""

    def __init__(self, url: str, path: Path, size: int | None, reporter: Reporter, pauses_s: Sequence[float]) -> None:
        self.url = url
        self.path = path
        self.partial = partial_path(path)
        self.size = size
        self.reporter = reporter
        self.pauses_s = pauses_s

    def run(self) -> str:
        """`downloaded` or `resumed`.

        Raises:
            _Failed: there is no such file, or no connection at all.
            MccError: the connection breaks again and again after a part has come.
        """
        state = "resumed" if self._have() and self._tag() else "downloaded"
        total = (self.size or 0) / 1e6 or None
        tries = 0
        with self.reporter.task(self.path.name, total=total, unit="MB") as task:
            task.advance(self._have() / 1e6)
            while True:
                before = self._have()
                try:
                    self._connect(task.advance)
                    return state
                except requests.RequestException as error:
                    have = self._have()
                    tries = 0 if have > before else tries + 1
                    if tries > len(self.pauses_s):
                        if not have:
                            raise _Failed(_why(error)) from error
                        of = f" of {self.size:,}" if self.size else ""
                        raise MccError(
                            f"{self.url}: the connection broke after {have:,}{of} bytes: {_why(error)}",
                            "run the same command again: it goes on from there",
                        ) from error
                    if not have and _is_offline(error):
                        raise _Failed(_why(error)) from error
                    time.sleep(self.pauses_s[max(tries - 1, 0)] if self.pauses_s else 0)

    def _have(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _tag(self) -> str | None:
        """What the server called the version of the file of which a part is there."""
        try:
            known: dict[str, str] = json.loads(_state_path(self.path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return known.get("tag") if known.get("url") == self.url else None

    def _connect(self, advance: Callable[[float], None]) -> None:
        """Fetch what is missing over one connection."""
        have, tag = self._have(), self._tag()
        headers = dict(_HEADERS)
        if have and tag:
            headers |= {"Range": f"bytes={have}-", "If-Range": tag}
        with requests.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if response.status_code == 416:  # the server has no more than this: it may be all of it
                if self.size == have or response.headers.get("Content-Range", "").endswith(f"/{have}"):
                    return
                remove(self.partial)
                raise requests.ConnectionError("the server's file is shorter than the part that is here")
            if response.status_code in _BUSY:
                raise requests.ConnectionError(f"the server says {response.status_code} {response.reason}")
            if not response.ok:
                raise _Failed(f"the server says {response.status_code} {response.reason}")
            goes_on = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
                f"bytes {have}-"
            )
            if not goes_on:
                if have:
                    advance(-have / 1e6)
                have = 0
                remove(self.partial)
                self._remember(response)
            length = response.headers.get("Content-Length")
            with self.partial.open("ab") as file:
                for piece in response.iter_content(_PIECE_BYTES):
                    file.write(piece)
                    advance(len(piece) / 1e6)
        if length is not None and self._have() < have + int(length):
            raise requests.ConnectionError("the server ended too soon")

    def _remember(self, response: requests.Response) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tag = response.headers.get("ETag", "")
        # A weak tag says that two files mean the same, not that their bytes are the same.
        tag = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
        write_text(_state_path(self.path), json.dumps({"url": self.url, "tag": tag or None}))


def _state_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.download.json")


def _forget(path: Path) -> None:
    remove(partial_path(path))
    remove(_state_path(path))


def _check(file: Path, path: Path, size: int | None, checksum: str | None, hint: str) -> None:
    """Compare `file`, which is or will be `path`, with what it should be.

    Raises:
        MccError: it is not that.
    """
    have = file.stat().st_size
    if size is not None and have != size:
        raise MccError(f"{path}: {have:,} bytes instead of {size:,}: not the expected file", hint)
    if checksum is not None:
        algorithm, _, wanted = checksum.partition(":")
        found = _digest(file, algorithm)
        if found != wanted.lower():
            raise MccError(f"{path}: {algorithm} {found} instead of {wanted}: not the expected file", hint)


def _digest(path: Path, algorithm: str) -> str:
    digest: Any = hashlib.new(algorithm)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return str(digest.hexdigest())


def _is_offline(error: Exception) -> bool:
    """Whether no connection came about at all: the name is unknown, or nobody answers."""
    return isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema)) or any(
        word in str(error) for word in ("NameResolution", "Failed to resolve", "Network is unreachable", "refused")
    )


def _why(error: Exception) -> str:
    """One line of an error that may be nested deeply."""
    text = str(error)
    if "resolve" in text.lower():
        return "its name cannot be resolved (no network?)"
    if "refused" in text:
        return "it refuses the connection"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server says {error.response.status_code} {error.response.reason}"
    if "IncompleteRead" in text or "Connection broken" in text or "RemoteDisconnected" in text:
        return "the server ended too soon"
    return text.splitlines()[0][:200] if text else type(error).__name__
