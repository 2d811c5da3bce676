"""What every step does with bad lines, empty input and paths; what a failed one leaves behind."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.base.documents import ReadConfig
from mcc.data.base.step import RecordWriter
from mcc.data.cloze import ClozeConfig, cloze
from mcc.data.decontaminate import DecontaminateConfig, TaskFile, decontaminate
from mcc.data.dedup import DedupConfig, dedup
from mcc.data.filtering import CleanConfig, clean
from mcc.data.preprocess import PreprocessConfig, preprocess
from mcc.data.shuffle import ShuffleConfig, shuffle
from mcc.data.tokenizer import TokenizerConfig, train_tokenizer
from tests.data.conftest import Write, read

PROSE = "The ferry crossed the water before sunrise. It was cold, and nobody spoke until the ferry reached land. "


@pytest.fixture(params=["clean", "dedup", "decontaminate", "shuffle", "tokenizer", "preprocess", "cloze"])
def step(request: pytest.FixtureRequest, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Every step as a function (inputs, output, read)."""
    task = tmp_path_factory.mktemp("task") / "task.jsonl"
    task.write_text('{"text": "a b c d e f g h i j k l m n"}\n')
    tasks = (TaskFile(name="lambada", path=str(task)),)
    steps = {
        "clean": lambda i, o, r: clean(i, o, CleanConfig(filters=("whitespace",), read=r)),
        "dedup": lambda i, o, r: dedup(i, o, DedupConfig(read=r)),
        "decontaminate": lambda i, o, r: decontaminate(i, o, DecontaminateConfig(tasks=tasks, read=r)),
        "shuffle": lambda i, o, r: shuffle(i, o, ShuffleConfig(read=r)),
        "tokenizer": lambda i, o, r: train_tokenizer(
            i, o.with_suffix(".json"), TokenizerConfig(vocab_size=300, read=r)
        ),
        "preprocess": lambda i, o, r: preprocess(i, o, tokenizer, PreprocessConfig(read=r)),
        "cloze": lambda i, o, r: cloze(i, o, ClozeConfig(min_words=5, count=2, read=r)),
    }
    return steps[request.param]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_bad_line_is_set_aside_or_ends_the_step(step: Callable, jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [PROSE * 5] * 3)
    with path.open("ab") as stream:
        stream.write(b'{"text": "cut\n')
    with pytest.raises(MccError, match=r"in\.jsonl:4: not JSON"):
        step([path], tmp_path / "out.jsonl", ReadConfig(on_error="fail"))
    assert names(tmp_path) == ["in.jsonl"]
    report = step([path], tmp_path / "out.jsonl", ReadConfig())
    assert (report.documents_in, report.bad_lines, report.max_errors) == (3, 1, 0)
    if "out.rejects.jsonl" in names(tmp_path):
        (rejected,) = read(tmp_path / "out.rejects.jsonl")
        assert rejected["reason"].startswith("bad line: not JSON") and rejected["where"] == f"{path}:4"


def test_an_empty_corpus_leaves_nothing(step: Callable, tmp_path: Path) -> None:
    for name, content in (("in.jsonl", b""), ("in.jsonl.gz", gzip.compress(b"\n\n")), ("in.txt", b" \n\n")):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(content)
        with pytest.raises(MccError, match=f"no documents in .*{name}"):
            step([folder / name], folder / "out.jsonl", ReadConfig())
        assert names(folder) == [name]


def test_a_missing_file_leaves_nothing(step: Callable, tmp_path: Path) -> None:
    with pytest.raises(MccError, match=r"no such input file: .*none\.jsonl"):
        step([tmp_path / "none.jsonl"], tmp_path / "out.jsonl", ReadConfig())
    assert names(tmp_path) == []


def test_output_over_input_is_refused(jsonl: Write) -> None:
    path = jsonl("in.jsonl", ["x"])
    with pytest.raises(UsageError, match="both input and output"):
        shuffle([path], path)
    with pytest.raises(UsageError, match="cannot be two outputs"):
        clean([path], path.with_name("out.jsonl"), rejects=path.with_name("out.jsonl"))
    with pytest.raises(UsageError, match=r"output \. is a folder"):
        shuffle([path], Path())
    assert read(path) == [{"text": "x"}]


def test_compressed_output_is_reproducible(jsonl: Write, tmp_path: Path) -> None:
    path = jsonl("in.jsonl", [PROSE, "x"])
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        shuffle([path], tmp_path / name)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()
    with pytest.raises(UsageError, match="JSON lines"):
        RecordWriter(tmp_path / "out.txt")


def test_old_rejects_do_not_outlive_a_run_without(jsonl: Write, tmp_path: Path) -> None:
    config = CleanConfig(filters=("min-chars",), options={"min-chars": {"chars": 3}})
    clean([jsonl("in.jsonl", ["long enough", "x"])], tmp_path / "out.jsonl", config)
    assert len(read(tmp_path / "out.rejects.jsonl")) == 1
    clean([jsonl("in.jsonl", ["long enough"])], tmp_path / "out.jsonl", config)
    assert names(tmp_path) == ["in.jsonl", "out.jsonl"]
    clean([jsonl("in.jsonl", ["long enough"])], tmp_path / "out.jsonl", config, rejects=tmp_path / "r.jsonl")
    assert read(tmp_path / "r.jsonl") == []


@pytest.mark.parametrize("run", [shuffle, dedup])
def test_what_a_killed_run_left_is_taken_away(run: Callable, jsonl: Write, tmp_path: Path) -> None:
    (tmp_path / ".out.jsonl.work" / "phase").mkdir(parents=True)
    (tmp_path / ".out.jsonl.work" / "phase" / "0").write_text("half")
    run([jsonl("in.jsonl", ["one", "two"])], tmp_path / "out.jsonl")
    assert names(tmp_path) == ["in.jsonl", "out.jsonl"]
