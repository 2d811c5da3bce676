"""Presets, above all that `openwebtext` decides as Megatron-LM's loop; a filter in a package of the user's own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.filtering import CleanConfig, clean
from mcc.data.presets import find_preset, presets
from mcc.data.tokenizer import load_tokenizer
from tests.data.conftest import Write, read
from tests.data.text.test_languages import SENTENCES


def documents() -> list[dict[str, Any]]:
    """English and other text of all lengths around the bounds, with things to mend."""
    generator = random.Random(7)
    found: list[dict[str, Any]] = []
    for i in range(120):
        lang = generator.choice(["en", "en", "en", "de", "fr", "ru", "ja"])
        words = " ".join(generator.choices([SENTENCES[lang], SENTENCES["en"], "“it’s” &amp; Ã¼ber"], [6, 2, 1], k=14))
        found.append({"id": i, "text": words[: generator.randrange(1400)], "meta": {"n": [1.0, None]}})
    found += [{"id": "empty", "text": ""}, {"id": "digits", "text": "1 2 3 " * 300}]
    return found


def by_the_loop(path: Path, tokenizer: Path) -> list[dict[str, Any]]:
    """The loop read literally."""
    import ftfy
    import langdetect

    langdetect.DetectorFactory.seed = 0
    encode = load_tokenizer(tokenizer).encode
    kept = []
    for record in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        text = ftfy.fix_text(record["text"])
        try:
            if langdetect.detect(text) != "en":
                continue
        except langdetect.LangDetectException:
            continue
        if len(text) < 1024 and len(encode(text)) < 128:
            continue
        kept.append({**record, "text": text})
    return kept


def test_openwebtext_is_the_loop(jsonl: Write, tokenizer: Path, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", documents())
    config = CleanConfig(preset="openwebtext", options={"min-tokens": {"tokenizer": str(tokenizer)}}, workers=2)
    report = clean([path], tmp_path / "out.jsonl", config)
    expected = by_the_loop(path, tokenizer)
    assert read(tmp_path / "out.jsonl") == expected
    assert 20 < len(expected) < 100 and set(report.rejected) == {"ftfy", "language", "min-tokens"}
    lost = [record["id"] for record in read(tmp_path / "out.rejects.jsonl")]
    assert sorted(map(str, [*lost, *(record["id"] for record in expected)])) == sorted(
        str(record["id"]) for record in documents()
    )


def test_openwebtext_on_gpt2s_vocabulary(shared_data: Path, jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", documents())
    folder = shared_data / "gpt2"
    files = {"vocab_file": str(folder / "vocab.json"), "merge_file": str(folder / "merges.txt")}
    clean([path], tmp_path / "out.jsonl", CleanConfig(preset="openwebtext", options={"min-tokens": files}))
    assert read(tmp_path / "out.jsonl") == by_the_loop(path, folder)


def test_every_preset(jsonl: Write, tokenizer: Path, tmp_path: Path) -> None:
    assert {"default", "openwebtext", "openwebtext-fix", "gopher", "c4"} <= set(presets())
    path = jsonl("in.jsonl", documents())
    for name, preset in presets().items():
        options = {"min-tokens": {"tokenizer": str(tokenizer)}} if preset.requires else {}
        report = clean([path], tmp_path / "out.jsonl", CleanConfig(preset=name, options=options))
        assert preset.what and report.documents_in == 122 and report.documents_out < 122


def test_options_go_over_those_of_the_preset() -> None:
    config = CleanConfig(preset="openwebtext-fix", options={"min-chars": {"chars": 7}})
    assert config.chain()[1] == {"min-chars": {"chars": 7}, "javascript": {"chars": 256}}
    assert CleanConfig().chain()[0] == ("ftfy", "whitespace", "language", "min-chars")
    for options, message in (
        ({"preset": "openwebtex"}, "did you mean 'openwebtext'"),
        ({"preset": "openwebtext"}, "needs a GPT-2 tokenizer"),
        ({"preset": "c4", "filters": ("ftfy",)}, "both filters and a preset"),
        ({"preset": "c4", "options": {"ftfy": {}}}, "which is not used"),
    ):
        with pytest.raises(UsageError, match=message):
            CleanConfig(**options)  # type: ignore[arg-type]


def test_presets_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[short]\nfilters = ["min-chars"]\n[short.options.min-chars]\nchars = 3\n', encoding="utf-8")
    assert CleanConfig(preset=str(path)).chain() == (("min-chars",), {"min-chars": {"chars": 3}})
    path.write_text('[one]\nfilters = ["ftfy"]\n[two]\nfilters = ["c4"]\n', encoding="utf-8")
    assert find_preset(f"{path}:two").filters == ("c4",)
    for content, name, message in (
        ('[one]\nfilters = ["ftfy"]\n[two]\n', f"{path}", "holds 2 presets"),
        ('[one]\nfilters = ["ftfy"]\n', f"{path}:three", "unknown preset"),
        ('[one]\nfilter = ["ftfy"]\n', f"{path}", "did you mean 'filters'"),
        ("one = 1\n", f"{path}", "is not a preset"),
        ("[one\n", f"{path}", "not TOML"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match=message):
            find_preset(name)
    with pytest.raises(MccError, match=r"none\.toml"):
        find_preset(str(tmp_path / "none.toml"))


FILTER = '''
"""A filter of a package that is not mcc."""
from dataclasses import dataclass

from mcc.core.config import option
from mcc.data.filtering import Filter, Rejected


@dataclass(frozen=True, kw_only=True)
class Options:
    word: str = option("spam", "word that rejects a text")


class NoWord(Filter[Options]):
    """Drop text with a word."""

    Options = Options

    def keep(self, text):
        return Rejected(f"the word {self.options.word}") if self.options.word in text.split() else text
'''
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "no-word"
version = "1"
[project.entry-points."mcc.filter"]
no-word = "no_word"
[tool.hatch.build.targets.wheel]
include = ["no_word.py"]
"""


def test_a_filter_in_one_file_of_an_installed_package(jsonl: Write, tmp_path: Path) -> None:
    """Really installed, by pip where it can build without a network, else laid out as pip would; used by workers."""
    package, target = tmp_path / "package", tmp_path / "installed"
    package.mkdir()
    (package / "no_word.py").write_text(FILTER, encoding="utf-8")
    (package / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-build-isolation", "--no-deps"]
    done = subprocess.run([*pip, "--target", str(target), str(package)], capture_output=True, text=True, check=False)
    if done.returncode:
        information = target / "no_word-1.dist-info"
        information.mkdir(parents=True, exist_ok=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: no-word\nVersion: 1\n", encoding="utf-8")
        (information / "entry_points.txt").write_text("[mcc.filter]\nno-word = no_word\n", encoding="utf-8")
        (target / "no_word.py").write_text(FILTER, encoding="utf-8")
    path = jsonl("in.jsonl", ["good text", "spam text", "eggs"])
    mcc = [sys.executable, "-m", "mcc", "data", "clean", path, "-o", tmp_path / "out.jsonl", "--filters", "no-word"]
    mcc += ["--set", "no-word.word=eggs", "--workers", "2", "--json"]
    environment = {"PYTHONPATH": f"{target}:{Path(__file__).parents[2]}", "PATH": ""}
    ran = subprocess.run(list(map(str, mcc)), capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["rejected"] == {"no-word": 1}
    assert read(tmp_path / "out.jsonl") == [{"text": "good text"}, {"text": "spam text"}]
    assert read(tmp_path / "out.rejects.jsonl")[0]["reason"] == "no-word: the word eggs"
