"""`mcc data`: every command does its step with its options, and bad input gives one clear line."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from mcc.cli.data import app
from mcc.cli.main import main
from mcc.core.config import settings
from mcc.data.cloze import ClozeConfig
from mcc.data.decontaminate import DecontaminateConfig
from mcc.data.dedup import DedupConfig
from mcc.data.filtering import CleanConfig
from mcc.data.preprocess import PreprocessConfig
from mcc.data.shuffle import ShuffleConfig
from mcc.data.tokenizer import TokenizerConfig
from mcc.data.wiki import WikiConfig
from tests.data.conftest import Write, read
from tests.data.test_wiki import SMALL

Run = Callable[..., Any]
PROSE = "The ferry crossed the water before sunrise. It was cold, and nobody spoke until the ferry reached land. "


@pytest.fixture
def mcc_data(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `mcc data ARGS --json` and give the JSON; with `fails=CODE` give (message, hint) instead."""

    def run(*args: object, fails: int = 0) -> Any:
        code = main(["data", *map(str, args), *([] if fails else ["--json"])])
        out, err = capsys.readouterr()
        assert code == fails, err
        if not fails:
            return json.loads(out)
        assert out == "" and "Traceback" not in err
        lines = err.splitlines()
        assert lines[0].startswith("error: ") and len(lines) <= 2, err
        return err

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_whole_chain(mcc_data: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pages = [SMALL.decode()]
    paragraph = "Wort {} steht hier im Satz, und der Satz {} endet mit dem Wort {}. "
    for i in range(20):
        text = "".join(paragraph.format(j * i, j, j) for j in range(40))
        page = f"<page><title>P{i}</title><ns>0</ns><id>1{i}</id><revision><text>{text}</text></revision></page>"
        pages.append(page)
    Path("w.xml").write_text("".join(pages).replace("</mediawiki>", "") + "</mediawiki>")
    assert mcc_data("wiki", "w.xml", "-o", "pages.jsonl")["documents_out"] == 22
    report = mcc_data("clean", "pages.jsonl", "-o", "clean.jsonl.gz", "--lang", "de", "--min-chars", 100)
    assert report["documents_out"] == 20 and report["outputs"] == ["clean.jsonl.gz", "clean.rejects.jsonl"]
    report = mcc_data("dedup", "clean.jsonl.gz", "-o", "unique.jsonl", "--duplicates", "dup.jsonl")
    assert report["documents_out"] + len(read(Path("dup.jsonl"))) == 20
    unique = report["documents_out"]
    Path("task.jsonl").write_text(
        json.dumps({"text": "nothing of this stands in any of the pages that were read above"})
    )
    report = mcc_data(
        "decontaminate", "unique.jsonl", "-o", "t.jsonl", "--task", "lambada", "--task-file", "task.jsonl"
    )
    assert report["documents_out"] == unique and report["ngrams"] == {"lambada": 1}
    mcc_data("shuffle", "t.jsonl", "-o", "s.jsonl", "--seed", 7)
    assert mcc_data("tokenizer", "s.jsonl", "-o", "tok", "--vocab-size", 280)["vocab_size"] == 280
    report = mcc_data("preprocess", "s.jsonl", "--output-prefix", "out/w", "--tokenizer", "tok", "--append-eod")
    assert report["prefixes"] == {"text": "out/w_text_document"}
    shown = mcc_data("inspect", "out/w_text_document", "--doc", 0, "--decode", "tok", "--max-tokens", 5000)
    assert shown["documents"] == unique and shown["tokens"] == report["tokens"]["text"]
    assert shown["document"]["text"] == read(Path("s.jsonl"))[0]["text"] + "<|endoftext|>"
    assert mcc_data("cloze", "s.jsonl", "-o", "c.jsonl", "--count", 5, "--min-words", 8)["documents_out"] == 5
    assert not [name for name in names(tmp_path) if name.endswith(".partial")]


def test_tables_are_shown_without_json(
    jsonl: Write, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl("in.jsonl", [PROSE * 9] * 2)
    assert main(["data", "dedup", str(path), "-o", str(tmp_path / "o.jsonl")]) == 0
    assert re.search(r"removed +1\b", capsys.readouterr().out)
    main(["data", "preprocess", str(path), "--output-prefix", str(tmp_path / "p"), "--tokenizer", str(tokenizer)])
    assert main(["data", "inspect", str(tmp_path / "p_text_document"), "--decode", str(tokenizer)]) == 0
    out = capsys.readouterr().out
    assert "unigram entropy" in out and "The ferry" in out
    assert main(["data", "filters"]) == 0
    assert "min_chars" not in (out := capsys.readouterr().out) and "langdetect" in out


def test_filters_and_their_options(mcc_data: Run, jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", ["“one” two three", "four"])
    out, rejects = tmp_path / "o.jsonl", tmp_path / "r.jsonl"
    base = ("clean", path, "-o", out, "--rejects", rejects)
    mcc_data(*base, "--filters", "ftfy,min-tokens", "--set", "ftfy.uncurl-quotes=false", "--set", "min-tokens.tokens=2")
    assert read(out) == [{"text": "“one” two three"}]
    assert read(rejects)[0]["reason"] == "min-tokens: 1 words, fewer than 2"
    assert mcc_data(*base, "--filters", "min-tokens", "--min-tokens", 1)["documents_out"] == 2
    assert "did you mean 'ftfy'" in mcc_data(*base, "--filters", "ftfyy", fails=2)
    assert "not FILTER.OPTION=VALUE" in mcc_data(*base, "--set", "chars=2", fails=2)
    assert "which is not used" in mcc_data(*base, "--filters", "ftfy", "--lang", "en", fails=2)
    assert "filter min-chars: unknown key 'char'" in mcc_data(*base, "--set", "min-chars.char=2", fails=2)
    assert {row["name"] for row in mcc_data("filters")} >= {"ftfy", "language"}


def test_other_options_do_something(mcc_data: Run, jsonl: Write, tokenizer: Path, tmp_path: Path) -> None:
    texts = [PROSE * 4, PROSE * 4 + "And one more thing was said at last before the ferry turned.", "unlike the rest"]
    path = jsonl("in.jsonl", [{"body": text, "n": i} for i, text in enumerate(texts)])
    out = tmp_path / "o.jsonl"
    key = ("--text-key", "body")
    removed = [mcc_data("dedup", path, "-o", out, *key, "--threshold", t)["removed"] for t in (0.99, 0.3)]
    assert removed == [0, 1]
    report = mcc_data("dedup", path, "-o", out, *key, "--bands", 40, "--rows", 3, "--shingle-chars", 3, "--key", "n")
    assert (report["bands"], report["rows"]) == (40, 3)
    assert mcc_data("dedup", path, "-o", out, *key, "--num-perm", 16)["bands"] <= 16
    mcc_data("shuffle", path, "-o", out, *key, "--bucket-bytes", 10)
    assert mcc_data("tokenizer", path, "-o", tmp_path / "t", *key, "--min-frequency", 50)["vocab_size"] == 257
    prefix = ("--output-prefix", tmp_path / "p", "--tokenizer", tokenizer)
    report = mcc_data("preprocess", path, *prefix, "--json-keys", "body", "--workers", 2)
    assert report["outputs"] == [f"{tmp_path}/p_body_document.bin", f"{tmp_path}/p_body_document.idx"]
    assert "no key 'text'" in mcc_data("preprocess", path, *prefix, "--on-error", "fail", fails=1)
    task = jsonl("task.jsonl", [{"q": "nobody spoke until the ferry reached land it was the ferry"}, {"q": PROSE}])
    cut = ("decontaminate", path, "-o", out, *key, "--task", "jsonl", "--task-file", task, "--task-key", "q")
    assert mcc_data(*cut)["dropped"] == 2
    small = ("--remove-chars-each-side", 0, "--min-piece-chars", 0, "--max-pieces", 99)
    assert mcc_data(*cut, *small)["dropped"] < 2
    assert mcc_data(*cut, "--key-threshold", 0)["dropped"] == 0
    assert mcc_data(*cut, "--max-ngram", 40, "--min-ngram", 40, "--key-threshold", 1, fails=1)
    cloze = ("cloze", path, "-o", out, *key)
    longest = {}
    for words in (14, 30):
        mcc_data(*cloze, "--min-words", 8, "--max-words", words, "--min-letters", 5, "--per-document", 9, "--seed", 3)
        longest[words] = max(len(record["text"].split()) for record in read(out))
    assert 8 <= longest[14] <= 14 < longest[30] <= 30
    (tmp_path / "w.xml").write_bytes(SMALL)
    assert mcc_data("wiki", tmp_path / "w.xml", "-o", out, "--min-chars", 6)["documents_out"] == 1
    assert mcc_data("wiki", tmp_path / "w.xml", "-o", out, "--no-lists", "--headings", "drop")["documents_out"] == 2


def test_word_pieces_and_what_they_are_made_for(mcc_data: Run, jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [f"{PROSE}Café number{i}." for i in range(1500)])
    train = ("tokenizer", path, "--model", "wordpiece", "--vocab-size", 150)
    pieces = {}
    for name, options in (("cased", ()), ("lower", ("--lowercase",)), ("few", ("--max-words", 1000))):
        report = mcc_data(*train, "-o", tmp_path / name, *options)
        assert report["vocab_size"] == 150
        assert report["outputs"] == [f"{tmp_path}/{name}/tokenizer.json", f"{tmp_path}/{name}/vocab.txt"]
        pieces[name] = (tmp_path / name / "vocab.txt").read_text("utf-8").splitlines()
    assert pieces["cased"][0] == "[PAD]" and "##é" in pieces["cased"] and "##é" not in pieces["lower"]
    assert "I" in pieces["cased"] and "I" not in pieces["lower"]
    assert pieces["few"] != pieces["cased"]
    vocab = ("--vocab-file", tmp_path / "lower" / "vocab.txt", "--tokenizer-type", "BertWordPieceLowerCase")
    mcc_data("preprocess", path, "--output-prefix", tmp_path / "p", *vocab, "--split-sentences", "--sentence-splitter",
             "sentencex")  # fmt: skip
    assert mcc_data("inspect", tmp_path / "p_text_sentence", "--doc", 0, "--decode", tmp_path / "lower")["document"][
        "text"
    ].startswith("the ferry")
    assert "model: input should be 'bpe' or 'wordpiece'" in mcc_data(
        "tokenizer", path, "-o", tmp_path / "t", "--model", "unigram", fails=2
    )
    assert "must be at least 1000" in mcc_data("tokenizer", path, "-o", tmp_path / "t", "--max-words", 3, fails=2)
    assert "goes with model wordpiece" in mcc_data("tokenizer", path, "-o", tmp_path / "t", "--lowercase", fails=2)


def test_bad_lines(mcc_data: Run, jsonl: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = jsonl("in.jsonl", ["good", "good too"])
    with path.open("a") as stream:
        stream.write('{"text": 5}\n')
    shuffle = ("shuffle", path, "-o", tmp_path / "o.jsonl")
    assert f"error: {path}:3: key 'text' holds a number, not text" in mcc_data(*shuffle, "--on-error", "fail", fails=1)
    assert names(tmp_path) == ["in.jsonl"]
    mcc_data(*shuffle, "--on-error", "ignore", fails=2)
    # All are set aside and told of, and the command fails when they are more than it may be.
    assert main(["data", *map(str, shuffle), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["bad_lines"] == 1 and "error: shuffle: 1 bad line, more than --max-errors 0" in err
    assert read(tmp_path / "o.rejects.jsonl")[0]["line"] == '{"text": 5}'
    assert mcc_data(*shuffle, "--max-errors", 1)["documents_out"] == len(read(tmp_path / "o.jsonl")) == 2


def test_bad_input(mcc_data: Run, jsonl: Write, tokenizer: Path, tmp_path: Path) -> None:
    empty = jsonl("empty.jsonl", [])
    assert "no documents in" in mcc_data("clean", empty, "-o", tmp_path / "o.jsonl", fails=1)
    assert "no such input file" in mcc_data("dedup", tmp_path / "none.jsonl", "-o", tmp_path / "o.jsonl", fails=1)
    assert "no such token index" in mcc_data("inspect", tmp_path / "none", fails=1)
    path = jsonl("in.jsonl", [PROSE])
    prefix = tmp_path / "p"
    mcc_data("preprocess", path, "--output-prefix", prefix, "--tokenizer", tokenizer)
    document = f"{prefix}_text_document"
    assert "there are 1, from 0" in mcc_data("inspect", document, "--doc", 1, fails=2)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    assert "is not in" in mcc_data("inspect", document, "--decode", tmp_path, fails=1)
    Path(f"{document}.idx").write_bytes(Path(f"{document}.idx").read_bytes()[:-3])
    assert "truncated" in mcc_data("inspect", document, fails=1)
    task = ("--task", "lambada", "--task", "jsonl", "--task-file", path)
    assert "2 --task but 1 --task-file" in mcc_data("decontaminate", path, "-o", tmp_path / "o.jsonl", *task, fails=2)
    saved = ("--load-dictionary", path, "--task-key", "x")
    assert "--task-key without --task" in mcc_data("decontaminate", path, "-o", tmp_path / "o.jsonl", *saved, fails=2)
    assert "see mcc data dedup --help" in mcc_data("dedup", fails=2)
    assert "must be above 0" in mcc_data("dedup", path, "-o", tmp_path / "o.jsonl", "--threshold", 2, fails=2)
    assert not (tmp_path / "o.jsonl").exists()


CONFIGS = {
    "wiki": WikiConfig,
    "clean": CleanConfig,
    "dedup": DedupConfig,
    "decontaminate": DecontaminateConfig,
    "shuffle": ShuffleConfig,
    "tokenizer": TokenizerConfig,
    "preprocess": PreprocessConfig,
    "cloze": ClozeConfig,
}
# Shown in words, or set under another name.
OTHERWISE = {
    "key", "bands", "rows", "lang", "min_tokens", "rejects", "text_key", "json_keys", "lists", "task_key",
    "tokenizer_type", "special_tokens", "sentence_splitter", "punkt",
}  # fmt: skip


def test_the_help_tells_the_defaults_of_the_configuration() -> None:
    group: Any = get_command(app)
    checked = 0
    for command, config in CONFIGS.items():
        defaults = {setting.name: setting.default for setting in settings(config)}
        for parameter in group.commands[command].params:
            help_text = str(getattr(parameter, "help", None) or "").replace("\\", "")
            told = re.search(r"\[default: (.*?)\]\.$", help_text)
            if told is None or parameter.name in OTHERWISE or (command, parameter.name) == ("clean", "min_chars"):
                continue
            default = {**defaults, "max_errors": 0, "on_error": "reject"}[parameter.name]
            shown = ",".join(default) if isinstance(default, tuple) else str(default)
            assert told[1] == shown, (command, parameter.name)
            checked += 1
    assert checked > 25
    assert all(dataclasses.is_dataclass(config) for config in CONFIGS.values()) and isinstance(app, typer.Typer)


def test_keys_as_megatron_lm_takes_them(mcc_data: Run, jsonl: Write, tokenizer: Path, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [{"text": PROSE, "title": "A title", "body": "More"}])
    rest = ("--output-prefix", tmp_path / "p", "--tokenizer", tokenizer)
    report = mcc_data("preprocess", "--input", path, "--json-keys", "text", "title", "body", *rest)
    assert list(report["tokens"]) == ["text", "title", "body"]
