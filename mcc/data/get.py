"""`mcc data get`: files of the catalogue, fetched, checked and unpacked."""

from __future__ import annotations

import re
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import atomic_path
from mcc.data.fetch.catalogue import Entry, Item, find
from mcc.data.fetch.download import Fetched, Unreachable, fetch, fetch_text


@dataclass(frozen=True, kw_only=True)
class GetReport:
    """What is there now.

    Args:
        files: what was downloaded.
        unpacked: files that came out of archives.
        next: a command that uses them.
    """

    name: str
    folder: str
    licence: str
    files: tuple[Fetched, ...]
    unpacked: tuple[str, ...]
    next: str


def get(
    name: str,
    folder: Path | None = None,
    *,
    lang: str = "en",
    date: str = "latest",
    reporter: Reporter = SILENT,
    entry: Entry | None = None,
) -> GetReport:
    """Download what the catalogue has under `name`.

    Args:
        folder: where to; default: a folder of that name.
        lang, date: of the Wikipedia, for `wiki`.
        entry: instead of the catalogue's.

    Raises:
        UsageError: the name is unknown.
        Unreachable: it cannot be downloaded; `manual_steps` says what to do by hand.
        MccError: what came is not what was expected.
    """
    entry = entry or find(name, lang, date)
    folder = folder or Path(name)
    files, unpacked = [], []
    for item in entry.items:
        wanted = _dated(item, reporter)
        path = folder / wanted.name
        fetched = fetch(wanted.urls, path, size=wanted.size, checksum=wanted.checksum, reporter=reporter)
        files.append(fetched)
        if fetched.checksum is None:
            reporter.warn(f"{path}: there is no checksum to compare it with")
        if item.unpack:
            unpacked += unpack(path, folder, item)
    return GetReport(
        name=name,
        folder=str(folder),
        licence=entry.licence,
        files=tuple(files),
        unpacked=tuple(unpacked),
        next=entry.next.replace("{folder}", str(folder)),
    )


def manual_steps(entry: Entry, folder: Path) -> list[str]:
    """What to do where there is no network: lines for a person."""
    lines = ["By hand, on a machine with a network:"]
    for item in entry.items:
        checksum = item.checksum or (f"listed in {item.sums}" if item.sums else "not known")
        size = f"{item.size:,} bytes" if item.size else "size not known"
        lines.append(f"  download {' or '.join(item.urls)} ({size}, checksum {checksum}),")
        lines.append(f"  and put it at {folder / item.name}")
    lines.append("Then run the same command again: it checks the files" + _and_unpacks(entry.items) + ".")
    return lines


def _and_unpacks(items: Sequence[Item]) -> str:
    return " and unpacks them" if any(item.unpack for item in items) else ""


def _dated(item: Item, reporter: Reporter) -> Item:
    """`item` with the checksum that its publisher gives today, at the address that will not change under it."""
    if item.sums is None:
        return item
    try:
        sums = fetch_text(item.sums)
    except Unreachable as error:
        reporter.warn(f"{item.name}: no checksum: {error.what}")
        return item
    found = re.search(rf"^([0-9a-f]{{40}})\s+(\S*-(\d{{8}}){re.escape(item.listed)})$", sums, re.MULTILINE)
    if found is None:
        reporter.warn(f"{item.name}: no checksum: {item.sums} does not list it")
        return item
    digest, name, date = found.groups()
    (url,) = item.urls
    dated = url.replace("/latest/", f"/{date}/").rpartition("/")[0] + "/" + name
    urls = (dated, url) if dated != url else (url,)
    return Item(**{**vars(item), "name": name, "urls": urls, "checksum": f"sha1:{digest}"})


def unpack(archive: Path, folder: Path, item: Item) -> list[str]:
    """Write the members of a `.zip` or `.tar.gz` into `folder`; those that are there already are left alone.

    Raises:
        MccError: the archive is damaged, or a member would be written elsewhere.
    """
    written = []
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as packed:
                for member in packed.infolist():
                    if not member.is_dir():
                        with packed.open(member) as stream:
                            written += _write(stream, member.filename, member.file_size, archive, folder, item)
        else:
            with tarfile.open(archive) as tar:
                for entry in tar:
                    if not entry.isfile():  # folders are made as needed; links and devices are not wanted
                        continue
                    stream_or_none = tar.extractfile(entry)
                    assert stream_or_none is not None
                    written += _write(stream_or_none, entry.name, entry.size, archive, folder, item)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise MccError(f"{archive}: cannot be unpacked: {error}", "delete it and get it again") from error
    return written


def _write(stream: IO[bytes], member: str, size: int, archive: Path, folder: Path, item: Item) -> list[str]:
    inner = PurePosixPath(item.rename.get(member, member).removeprefix("./"))
    if inner.parts[:1] == ("__MACOSX",) or inner.name == ".DS_Store" or inner.name.startswith("._"):
        return []
    if inner.is_absolute() or ".." in inner.parts or "\\" in member:
        raise MccError(f"{archive}: member {member!r} would be written outside {folder}", "do not trust this file")
    path = folder / inner
    if not (path.exists() and path.stat().st_size == size):
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    return [str(path)]
