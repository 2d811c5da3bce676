"""Every step over every broken file: one clear line, a telling exit code, and nothing half-done under a final name."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from mcc.cli.main import main
from tests.data.broken import (
    GOOD,
    RECORDS,
    TOKEN_FILES,
    VOCABULARIES,
    Broken,
    write_records,
    write_token_files,
)
from tests.data.conftest import read

Run = Callable[..., tuple[int, str]]

# Step -> its arguments; {in} is the broken file, {out} the folder for what it writes, {here} other files.
STEPS = {
    "clean": "clean {in} -o {out}/o.jsonl --filters whitespace",
    "urls": "urls {in} -o {out}/o.jsonl",
    "dedup": "dedup {in} -o {out}/o.jsonl --duplicates {out}/d.jsonl",
    "dedup-exact": "dedup {in} -o {out}/o.jsonl --exact",
    "find": "dedup find {in} -o {out}/o.jsonl --key url",
    "decontaminate": "decontaminate {in} -o {out}/o.jsonl --task jsonl --task-file {here}/task.jsonl --task-key text",
    "shuffle": "shuffle {in} -o {out}/o.jsonl",
    "holdout": "holdout {in} -o {out}/o.jsonl --held-out {out}/h.jsonl",
    "ids": "ids {in} -o {out}/o.parquet",
    "concat": "concat {in} -o {out}/o.jsonl.gz",
    "preprocess": "preprocess {in} --output-prefix {out}/o --tokenizer {here}/tokenizer.json",
    "preprocess-2": "preprocess {in} --output-prefix {out}/o --tokenizer {here}/tokenizer.json --workers 2",
    "cloze": "cloze {in} -o {out}/o.jsonl --min-words 5 --max-words 60",
    "tokenizer": "tokenizer {in} -o {out}/o.json --vocab-size 300",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    write_records(folder)
    write_token_files(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `mcc data ...`, and see that it complains as it should: (exit code, what stood on stderr)."""

    def run(arguments: str, **places: Path) -> tuple[int, str]:
        words = [word.format(**{name: str(path) for name, path in places.items()}) for word in arguments.split()]
        code = main(["data", *words])
        shown = capsys.readouterr().err
        assert "Traceback" not in shown and "--debug" not in shown, shown
        if code:
            lines = shown.splitlines()
            errors = [line for line in lines if line.startswith("error: ")]
            assert len(errors) == 1, shown
            # One line, then perhaps a hint; before it warnings only.
            at = lines.index(errors[0])
            assert all(line.startswith("warning: ") for line in lines[:at]), shown
            assert lines[at + 1 :] == [] or (len(lines) == at + 2 and lines[-1].startswith("hint: ")), shown
            assert not any(word in errors[0] for word in ("Error(", "Errno", "Exception", "<class")), shown
        return code, shown

    return run


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("broken", RECORDS, ids=lambda broken: broken.name)
@pytest.mark.parametrize("step", STEPS)
def test_steps_over_records(step: str, broken: Broken, here: Path, tmp_path: Path, run: Run) -> None:
    path = here / broken.name
    if step == "urls" and broken.name in ("missing-key.jsonl", "number.jsonl"):
        pytest.skip("these lines have a URL")
    code, shown = run(STEPS[step], **{"in": path, "out": tmp_path, "here": here})
    assert code == (2 if broken.told == "unknown format" else 1), shown
    told = (
        broken.told.replace("'text'", "'url'") if step == "urls" and broken.told.startswith("no key") else broken.told
    )
    if not (step == "urls" and told.startswith("key 'text'")):
        assert told in shown
    assert broken.name in shown, shown
    if broken.line is None:
        assert left(tmp_path) == []
        return
    assert f"{path}:{broken.line}: " in shown
    assert "1 bad line, more than --max-errors 0" in shown
    (rejects,) = [name for name in left(tmp_path) if "rejects" in name]
    (rejected,) = read(tmp_path / rejects)
    assert rejected["where"] == f"{path}:{broken.line}"
    assert not [name for name in left(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("step", STEPS)
def test_stop_at_the_first(step: str, here: Path, tmp_path: Path, run: Run) -> None:
    arguments = STEPS[step] + " --on-error fail"
    code, shown = run(arguments, **{"in": here / "malformed.jsonl", "out": tmp_path, "here": here})
    assert code == 1
    assert f"error: {here}/malformed.jsonl:4: not JSON" in shown
    assert left(tmp_path) == []


@pytest.mark.parametrize("step", STEPS)
def test_tolerated_lines_are_no_error(step: str, here: Path, tmp_path: Path, run: Run) -> None:
    """The other documents come out as they would without the bad line."""
    places = {"out": tmp_path, "here": here}
    code, shown = run(STEPS[step] + " --max-errors 1", **{"in": here / "malformed.jsonl"}, **places)
    assert code == 0, shown
    assert "malformed.jsonl:4: not JSON" in shown
    if step in ("clean", "shuffle", "decontaminate"):
        names = {record["id"] for record in read(tmp_path / "o.jsonl")}
        assert step == "decontaminate" or names == {record["id"] for record in GOOD}
    if step == "concat":
        assert len(gzip.decompress((tmp_path / "o.jsonl.gz").read_bytes()).splitlines()) == len(GOOD)


def test_a_long_line_and_escaped_nuls_are_no_errors(here: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "long.jsonl"
    path.write_bytes(
        b'{"text": "' + b"word \\u0000 " * 700_000 + b'"}\n' + b"".join(b'{"text": "%d"}\n' % i for i in range(60))
    )
    out = tmp_path / "out"
    out.mkdir()
    for step in ("clean", "dedup", "shuffle", "preprocess", "concat", "ids", "holdout"):
        code, shown = run(STEPS[step], **{"in": path, "out": out, "here": here})
        assert code == 0, shown


@pytest.mark.parametrize("name", TOKEN_FILES)
@pytest.mark.parametrize(
    "step",
    [
        "verify {in}",
        "inspect {in}",
        "index {in} --train-iters 1 --seq-length 1 --global-batch-size 1",
        "merge {here}/good {in} --output-prefix {out}/merged",
    ],
    ids=lambda step: step.split()[0],
)
def test_steps_over_token_files(step: str, name: str, here: Path, tmp_path: Path, run: Run) -> None:
    before = left(here)
    code, shown = run(step, **{"in": here / name, "out": tmp_path, "here": here})
    assert code in (1, 2), shown
    assert name in shown
    assert left(tmp_path) == []
    assert left(here) == before


def test_the_good_token_files_are_good(here: Path, tmp_path: Path, run: Run) -> None:
    assert run("verify {here}/good", here=here)[0] == 0
    assert run("inspect {here}/good", here=here)[0] == 0
    assert run("merge {here}/good {here}/good --output-prefix {out}/m", here=here, out=tmp_path)[0] == 0


@pytest.mark.parametrize("name", VOCABULARIES)
def test_wrong_vocabularies(name: str, here: Path, tmp_path: Path, run: Run) -> None:
    options, files = VOCABULARIES[name]
    folder, out = tmp_path / "v", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    arguments = " ".join(["preprocess {in} --output-prefix {out}/o", *options])
    code, shown = run(arguments, **{"in": here / "good.jsonl", "out": out, "folder": folder})
    assert code in (1, 2), shown
    assert str(folder) in shown
    assert left(out) == []


@pytest.mark.parametrize("broken", ["cut.jsonl", "malformed.jsonl", "number.jsonl", "cut.jsonl.gz", "utf8.jsonl"])
@pytest.mark.parametrize(
    "step",
    [
        "decontaminate {here}/good.jsonl -o {out}/o.jsonl --task jsonl --task-file {in} --task-key text",
        "decontaminate {here}/good.jsonl -o {out}/o.jsonl --task lambada --task-file {in}",
        "decontaminate {here}/good.jsonl -o {out}/o.jsonl --task squad --task-file {in}",
        "dedup group {in} -o {out}/o.jsonl",
        "dedup remove {in} {here}/good.jsonl -o {out}/o.jsonl",
        "dedup {here}/good.jsonl -o {out}/o.jsonl --load-fingerprints {in}",
        "run {in} --out {out}/o",
    ],
    ids=["task-jsonl", "task-lambada", "task-squad", "group", "remove", "fingerprints", "run"],
)
def test_other_files_that_steps_read(step: str, broken: str, here: Path, tmp_path: Path, run: Run) -> None:
    code, shown = run(step, **{"in": here / broken, "out": tmp_path, "here": here})
    assert code in (1, 2), shown
    assert broken in shown
    assert left(tmp_path) == []
