"""Real text to measure on: documents from Debian's documentation packages, some near-duplicates, some not in English.

RFCs come in revisions that share whole pages, manuals in several languages. The packages are fetched with apt into a
temporary folder and stay there; nothing of them is shipped (the RFCs are non-free). Without apt, or without a network,
the text that every Python carries takes their place. The same packages give the same file.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import shutil
import string
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson

from mcc.core.files import atomic_path
from mcc.data.base.plaintext import pack

# Package, folder inside it, ending of its files, and how many of its documents are taken (a share).
_PACKAGES = (
    ("doc-rfc-std", "usr/share/doc/RFC/", ".txt.gz", 1.0),
    ("doc-rfc-misc", "usr/share/doc/RFC/", ".txt.gz", 1.0),
    ("doc-rfc-old-std", "usr/share/doc/RFC/", ".txt.gz", 1.0),
    ("python3.11-doc", "usr/share/doc/python3.11/html/_sources/", ".txt", 1.0),
    ("perl-doc", "usr/share/perl/", ".pod", 0.5),
    ("manpages-de", "usr/share/man/de/", ".gz", 0.5),
    ("manpages-fr", "usr/share/man/fr/", ".gz", 0.5),
    ("manpages-es", "usr/share/man/es/", ".gz", 0.5),
    ("manpages-pl", "usr/share/man/pl/", ".gz", 0.5),
    ("manpages-ru", "usr/share/man/ru/", ".gz", 0.5),
    ("manpages-ja", "usr/share/man/ja/", ".gz", 0.25),
    ("manpages-zh", "usr/share/man/zh_CN/", ".gz", 0.25),
)
_LOW_CHARS, _HIGH_CHARS = 300, 12_000
_FOOTER = re.compile(r"\n+[^\n]*\[Page \w+\]\n*$")
_HEADER = re.compile(r"^\n*RFC \d+ [^\n]*\n+")
_ROFF = re.compile(r'^(?:\.\\"|\'\\"|\.(?:nr|de|if|ie|el|ds|ft|ad|nh|na|ns|rs|sp|PD|nf|fi|so)\b).*\n', re.MULTILINE)
_FONT = re.compile(r"\\f(?:\[\w*\]|[A-Z]|\(..)|\\[,/&|^]|\\s[-+]?\d")
_MACRO = re.compile(r"^\.[A-Z]{1,2} ?", re.MULTILINE)


def debian_docs(megabytes: float) -> Path:
    """A JSONL of `{id, text}` with this much text (10^6 bytes of UTF-8), its documents in a fixed random order."""
    folder = Path(tempfile.gettempdir()) / f"mcc-corpora-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    path = folder / f"debian-{megabytes:g}.jsonl"
    if path.exists():
        return path
    try:
        _fetch(folder / "packages")
        documents = [document for package in _PACKAGES for document in _documents(folder / "packages", *package)]
    except (OSError, subprocess.SubprocessError) as error:
        print(f"no Debian packages ({error}); Python's own text instead", file=sys.stderr)
        from mcc.data.corpus import python_corpus

        path = folder / f"python-{megabytes:g}.jsonl"
        documents = [(record["id"], record["text"]) for record in python_corpus()]
    random.Random(0).shuffle(documents)
    size = 0
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        for name, text in documents:
            stream.write(orjson.dumps({"id": name, "text": text}) + b"\n")
            size += len(text.encode())
            if size >= megabytes * 1e6:
                break
    return path


def enlarged(megabytes: float, times: int) -> Path:
    """`debian_docs(megabytes)` and `times - 1` copies of it in which every letter is another one: no duplicates."""
    source = debian_docs(megabytes)
    path = source.with_name(f"{source.stem}-x{times}.jsonl")
    if path.exists():
        return path
    letters = string.ascii_letters
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        for copy in range(times):
            table = str.maketrans(letters, letters[copy:] + letters[:copy])
            with source.open("rb") as lines:
                for line in lines:
                    record = orjson.loads(line)
                    text = record["text"].translate(table) if copy else record["text"]
                    stream.write(orjson.dumps({"id": f"{copy}-{record['id']}", "text": text}) + b"\n")
    return path


def data_folder() -> Path | None:
    """The folder that MCC_TEST_DATA names."""
    data = os.environ.get("MCC_TEST_DATA")
    return Path(data) if data else None


def vocabulary() -> Path:
    """A folder with vocab.json and merges.txt: GPT-2's of MCC_TEST_DATA, or else one trained on what there is."""
    data = data_folder()
    if data is not None:
        return data / "gpt2"
    folder = debian_docs(1).with_name("gpt2")
    if not (folder / "merges.txt").exists():
        from mcc.data.tokenizer import TokenizerConfig, train_tokenizer

        train_tokenizer([debian_docs(12)], folder, TokenizerConfig(vocab_size=30_000))
        model = orjson.loads((folder / "tokenizer.json").read_bytes())["model"]
        (folder / "vocab.json").write_bytes(orjson.dumps(model["vocab"]))
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
        (folder / "tokenizer.json").unlink()
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return folder


def _fetch(folder: Path) -> None:
    """Download what is not there yet, with apt's lists in a folder of our own: non-free is not enabled everywhere."""
    missing = [name for name, *_ in _PACKAGES if not list(folder.glob(f"{name}_*.deb"))]
    if not missing:
        return
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / "apt" / part).mkdir(parents=True, exist_ok=True)
    sources = folder / "apt" / "sources.list"
    sources.write_text(_sources(), encoding="utf-8")
    options = [f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=-", "Acquire::Languages=none"]
    options += [f"Dir::State::lists={folder / 'apt/lists'}", f"Dir::Cache={folder / 'apt/cache'}"]
    apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    subprocess.run([*apt, "update"], check=True, stdout=sys.stderr, timeout=300)
    subprocess.run([*apt, "-o", "APT::Sandbox::User=", "download", *missing], check=True, cwd=folder, timeout=900)


def _sources() -> str:
    """This machine's Debian mirror, with its non-free part."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(ORIGIN) $(REPO_URI)"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    for line in sorted(set(listed.stdout.splitlines())):
        release, component, origin, uri = line.split(" ", 3)
        if component == "main" and origin.startswith("Debian") and "-" not in release:
            keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
            return f"deb [signed-by={keys}] {uri} {release} main non-free\n"
    raise OSError("apt knows no Debian mirror")


def _documents(folder: Path, package: str, root: str, ending: str, share: float) -> Iterator[tuple[str, str]]:
    deb = next(iter(sorted(folder.glob(f"{package}_*.deb"))))
    packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, capture_output=True, timeout=300)
    generator = random.Random(package)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            name = member.name.removeprefix("./")
            if not (member.isfile() and name.startswith(root) and name.endswith(ending)):
                continue
            if generator.random() >= share:
                continue
            stream = archive.extractfile(member)
            assert stream is not None
            raw = stream.read()
            text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode("utf-8", errors="replace")
            paragraphs = [part for part in re.split(r"\n\s*\n", _plain(text, name)) if part.strip()]
            # Lengths as varied as those of web pages, not all near one bound.
            high = int(generator.triangular(_LOW_CHARS * 4, _HIGH_CHARS * 1.5, _HIGH_CHARS / 2))
            for i, document in enumerate(pack(paragraphs, _LOW_CHARS, high)):
                yield f"{package}/{name.removeprefix(root)}:{i}", document


def _plain(text: str, name: str) -> str:
    if "/man/" in name:
        text = _MACRO.sub("", _FONT.sub("", _ROFF.sub("", text)))
        return text.replace("\\-", "-").replace("\\(aq", "'").replace("\\(em", "—").replace("\\(bu", "•")
    pages = text.replace("\r", "").split("\f")
    return "\n\n".join(_HEADER.sub("", _FOOTER.sub("", page)) for page in pages)


def main() -> None:
    for megabytes in map(float, sys.argv[1:] or ["30", "60"]):
        path = debian_docs(megabytes)
        print(path, f"{path.stat().st_size / 1e6:.1f} MB", shutil.disk_usage(path).free // 10**9, "GB free")


if __name__ == "__main__":
    main()
