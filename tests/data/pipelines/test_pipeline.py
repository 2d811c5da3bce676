"""Pipelines: declared, cached by content, resumed, reported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mcc.cli.data import app
from mcc.core.errors import MccError, UsageError
from mcc.core.plugins import Kind
from mcc.data.base.job import run as run_job
from mcc.data.pipeline import load
from mcc.data.pipelines.run import InProcess, run_pipeline, states
from mcc.data.pipelines.stage import STAGES
from tests.data.conftest import Write, read

EXAMPLES = Path(__file__).parents[3] / "examples"
WORDS = "the quick brown fox jumps over the lazy dog and sleeps under an old oak tree by the river".split()  # noqa: SIM905


def text(i: int) -> str:
    return " ".join(WORDS[(i * 7 + j * (1 + i % 5)) % len(WORDS)] for j in range(40 + i % 30)) + f" number {i}."


@pytest.fixture
def corpus(jsonl: Write) -> Path:
    records = [{"id": i, "text": text(i)} for i in range(60)]
    records[7]["text"] = "short <script>alert(1)</script> \u202eevil\x07"
    return jsonl("corpus.jsonl", records)


def declare(folder: Path, body: str, name: str = "pipe.toml") -> Path:
    path = folder / name
    path.write_text(body)
    return path


def two_steps(corpus: Path, folder: Path, chars: int = 100, more: str = "") -> Path:
    return declare(
        folder,
        f"""
[[step]]
step = "clean"
input = "{corpus}"
filters = ["whitespace", "min-chars"]
options.min-chars.chars = {chars}

[[step]]
step = "shuffle"
{more}
""",
    )


class Counting(InProcess):
    """Runs here, and remembers what it ran."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "ran", [])

    def run(self, make: Any, reporter: Any) -> Any:
        job = make()
        self.ran.append(job.name)  # type: ignore[attr-defined]
        return run_job(job, 1, reporter)


def ran(file: Path, out: Path) -> list[str]:
    runner = Counting()
    run_pipeline(load(file, out), runner)
    return [name for name in runner.ran if name != "profile"]  # type: ignore[attr-defined]


def test_steps_follow_each_other(corpus: Path, tmp_path: Path) -> None:
    report = run_pipeline(load(two_steps(corpus, tmp_path), tmp_path / "out"))
    assert [(step.name, step.report["documents_in"], step.report["documents_out"]) for step in report.steps] == [
        ("clean", 60, 59),
        ("shuffle", 59, 59),
    ]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        ".steps", "01-clean.jsonl.zst", "01-clean.rejects.jsonl", "02-shuffle.jsonl.zst", "report.html", "run.json",
    }  # fmt: skip
    profile = report.steps[1].profile
    assert profile is not None
    assert profile["documents"] == 59 == sum(profile["lengths"].values()) == sum(profile["languages"].values())
    kept = [text(i) for i in range(60) if i != 7]
    assert profile["tokens"] == sum(len(t.split()) for t in kept) and profile["tokens_exact"]
    assert profile["bytes"] == sum(len(t.encode()) for t in kept)
    saved = json.loads((tmp_path / "out" / "run.json").read_text())
    assert saved["config"]["steps"]["clean"]["options"]["min-chars"]["chars"] == 100


def test_word_pieces_in_a_pipeline(corpus: Path, tmp_path: Path) -> None:
    """Their vocab.txt stands beside the tokenizer, for what reads BERT's file only."""
    more = """
[[step]]
step = "tokenizer"
model = "wordpiece"
vocab_size = 80

[[step]]
step = "preprocess"
tokenizer = "{tokenizer}"
"""
    file, out = two_steps(corpus, tmp_path, more=more), tmp_path / "out"
    report = run_pipeline(load(file, out))
    assert report.steps[2].report["outputs"] == (f"{out}/03-tokenizer.json", f"{out}/vocab.txt")
    assert (out / "vocab.txt").read_text().startswith("[PAD]\n") and report.steps[3].report["documents_out"] == 59
    (out / "vocab.txt").unlink()
    assert ran(file, out) == ["tokenizer"]


def test_only_what_changed_is_done_again(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = two_steps(corpus, tmp_path)
    assert ran(file, out) == ["clean", "shuffle"]
    assert ran(file, out) == []
    # Another setting; the result of clean is the same, so what follows is not done again.
    assert ran(two_steps(corpus, tmp_path, 101), out) == ["clean"]
    assert ran(two_steps(corpus, tmp_path, 101, "seed = 5"), out) == ["shuffle"]
    file = two_steps(corpus, tmp_path, 101, "seed = 5\nworkers = 2")
    assert ran(file, out) == []  # processes change nothing
    # Touched, with the same content.
    os.utime(corpus)
    assert ran(file, out) == []
    corpus.write_bytes(corpus.read_bytes() + json.dumps({"text": text(99)}).encode() + b"\n")
    assert ran(file, out) == ["clean", "shuffle"]


def test_a_changed_or_missing_output_is_done_again(corpus: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", two_steps(corpus, tmp_path)
    ran(file, out)
    first, last = out / "01-clean.jsonl.zst", out / "02-shuffle.jsonl.zst"
    wanted = last.read_bytes()
    last.unlink()
    assert ran(file, out) == ["shuffle"]
    state = last.stat()
    last.write_bytes(wanted[:-1] + bytes([wanted[-1] ^ 1]))
    os.utime(last, ns=(state.st_atime_ns, state.st_mtime_ns))  # the same size and time of change
    assert ran(file, out) == ["shuffle"]
    assert last.read_bytes() == wanted
    first.write_bytes(first.read_bytes() + b"x")
    assert ran(file, out) == ["clean"]
    assert ran(file, out) == []


def test_files_that_settings_name_count(corpus: Path, tmp_path: Path, jsonl: Write) -> None:
    task = jsonl("task.jsonl", [{"text": text(3) + " " + text(4)}])
    file = declare(
        tmp_path,
        f"""
[[step]]
step = "decontaminate"
input = "{corpus}"
tasks = [{{name = "lambada", path = "{task}"}}]
""",
    )
    assert ran(file, tmp_path / "out") == ["decontaminate"]
    assert ran(file, tmp_path / "out") == []
    jsonl("task.jsonl", [{"text": text(5) + " " + text(6)}])
    assert ran(file, tmp_path / "out") == ["decontaminate"]


def test_names_in_braces_and_variables(corpus: Path, tmp_path: Path) -> None:
    file = declare(
        tmp_path,
        """
[vars]
corpus = "nothing.jsonl"
share = 0.5

[[step]]
step = "holdout"
input = "{corpus}"
share = "{share}"

[[step]]
step = "tokenizer"
vocab_size = 300

[[step]]
step = "preprocess"
tokenizer = "{tokenizer}"

[[step]]
step = "preprocess"
name = "heldout"
input = "{holdout.held_out}"
tokenizer = "{tokenizer}"
""",
    )
    pipeline = load(file, tmp_path / "out", {"corpus": str(corpus)})
    assert [step.after for step in pipeline.steps] == [
        (), ("holdout",), ("holdout", "tokenizer"), ("holdout", "tokenizer"),
    ]  # fmt: skip
    assert states(pipeline) == ["to do", "to do after holdout", "to do after holdout", "to do after holdout"]
    report = run_pipeline(pipeline)
    assert states(pipeline) == ["done"] * 4
    documents = [step.report["documents_in"] for step in report.steps]
    assert documents[0] == 60 and documents[2] + documents[3] == 60 and 15 < documents[3] < 45
    profile = report.steps[0].profile
    assert profile is not None and profile["tokens"] == report.steps[2].report["tokens"]["text"]
    assert (tmp_path / "out" / "03-preprocess_text_document.idx").exists()
    with pytest.raises(MccError, match=r"no such input file: nothing\.jsonl"):
        load(file, tmp_path / "out")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "no steps"),
        ("[[step]]\n", "step 1 has no kind"),
        ('[[step]]\nstep = "cleen"\n', r"step 1: unknown step 'cleen'; did you mean 'clean'\?"),
        ('[[stap]]\nstep = "clean"\n', r"unknown table 'stap'; did you mean 'step'\?"),
        ('[[step]]\nstep = "clean"\n', "step 1 \\(clean\\): no input"),
        ('[[step]]\nstep = "clean"\ninput = "CORPUS"\nfiltres = []\n', "unknown key 'filtres'; did you mean 'filters'"),
        ('[[step]]\nstep = "clean"\ninput = "CORPUS"\nfilters = ["ftfi"]\n', "filter 'ftfi'; did you mean 'ftfy'"),
        ('[[step]]\nstep = "shuffle"\ninput = "CORPUS"\nseed = "x"\n', "step 1 \\(shuffle\\): seed: "),
        ('[[step]]\nstep = "shuffle"\ninput = "{corpse}"\n[vars]\ncorpus = "a"\n', "'corpse'; did you mean 'corpus'"),
        ('[[step]]\nstep = "shuffle"\ninput = "none-*.jsonl"\n', "no input file matches"),
        ('[[step]]\nstep = "shuffle"\ninput = []\n', "input = \\[\\]"),
        ('[[step]]\nstep = "shuffle"\ninput = "CORPUS"\n' * 2, "there is a 'shuffle' already"),
        ('[report]\nsampel = 1\n[[step]]\nstep = "shuffle"\ninput = "CORPUS"\n', "report: unknown key 'sampel'"),
        ('[cluster]\ntasks = 0\n[[step]]\nstep = "shuffle"\ninput = "CORPUS"\n', "cluster.tasks = 0"),
        (
            '[[step]]\nstep = "shuffle"\ninput = "CORPUS"\n[[step]]\nstep = "ids"\noutput = "01-shuffle.jsonl.zst"',
            "both write",
        ),
        ("[[step]\n", "is not TOML"),
    ],
)  # fmt: skip
def test_mistakes_have_one_line(corpus: Path, tmp_path: Path, body: str, message: str) -> None:
    file = declare(tmp_path, body.replace("CORPUS", str(corpus)))
    with pytest.raises(MccError, match=message) as caught:
        load(file, tmp_path / "out")
    assert "\n" not in caught.value.what
    assert not (tmp_path / "out").exists()


def test_a_missing_file_of_a_variable_says_which(tmp_path: Path) -> None:
    file = declare(tmp_path, '[vars]\nlang = "en"\ndump = "no.xml"\n[[step]]\nstep = "wiki"\ninput = "{dump}"\n')
    with pytest.raises(MccError, match=r"pipe\.toml: step 1 \(wiki\): no such input file: no\.xml") as caught:
        load(file, tmp_path / "out")
    assert caught.value.hint == "check the path, or give another: --set dump=FILE"


def test_unknown_variable_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown variable 'dumb'"):
        load(two_steps(corpus, tmp_path), None, {"dumb": "x"})


def test_too_many_bad_lines_end_the_pipeline(corpus: Path, tmp_path: Path) -> None:
    with corpus.open("ab") as stream:
        stream.write(b"no json\n")
    out, file = tmp_path / "out", two_steps(corpus, tmp_path)
    with pytest.raises(MccError, match=r"step 1 \(clean\): 1 bad line, more than read.max_errors = 0"):
        ran(file, out)
    assert not (out / "02-shuffle.jsonl.zst").exists()
    # The step itself is done: tolerating the line does not do it again.
    file.write_text("[read]\nmax_errors = 1\n" + file.read_text())
    assert ran(file, out) == ["shuffle"]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_needs_no_network_and_escapes_texts(corpus: Path, tmp_path: Path) -> None:
    report = run_pipeline(load(two_steps(corpus, tmp_path), tmp_path / "out"))
    page = Path(report.page).read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert not {"script", "link", "img", "iframe"} & set(tags.tags)
    assert not [value for name, value in tags.attributes if name in ("src", "href") or name.startswith("on")]
    assert "http" not in page
    assert "short <script>alert(1)</script> \N{REPLACEMENT CHARACTER}evil\N{REPLACEMENT CHARACTER}" in tags.text
    assert "min-chars" in tags.text and "Length" in tags.text and "Language" in tags.text
    assert re.search(r"1\. clean\s*60\s*59\s*1", tags.text.replace("60", " 60 ").replace("59", " 59 ").replace(",", ""))


def test_a_killed_pipeline_goes_on(corpus: Path, tmp_path: Path) -> None:
    file = declare(tmp_path, f'[[step]]\nstep = "clean"\ninput = "{corpus}"\nfilters = ["ftfy", "language"]\n'
                   'read.block_bytes = 500\n[[step]]\nstep = "dedup"\nread.block_bytes = 500\n')  # fmt: skip
    whole, killed = tmp_path / "whole" / "out", tmp_path / "killed" / "out"
    run_pipeline(load(file, whole))
    command = [
        sys.executable,
        "-c",
        "from mcc.cli.main import run; run()",
        "data",
        "run",
        str(file),
        "--out",
        str(killed),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    for name in (".01-clean.jsonl.zst.work/clean/00000/journal", ".02-dedup.jsonl.zst.work"):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while not (killed / name).exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not list(killed.glob("02-*"))
    assert (killed / "01-clean.jsonl.zst").exists()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    for path in whole.glob("0*"):
        if "rejects" not in path.name:
            assert (killed / path.name).read_bytes() == path.read_bytes()
    assert not list(killed.glob(".0*"))


def test_command(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = two_steps(corpus, tmp_path)
    plan = CliRunner().invoke(app, ["run", str(file), "--dry-run", "--json"])
    assert [row["state"] for row in json.loads(plan.stdout)] == ["to do", "to do after clean"]
    assert not (tmp_path / "pipe").exists()
    first = json.loads(CliRunner().invoke(app, ["run", str(file), "--workers", "2", "--json"]).stdout)
    assert [step["cached"] for step in first["steps"]] == [False, False]
    again = CliRunner().invoke(app, ["run", str(file)])
    assert again.exit_code == 0 and again.stdout.count("done before") == 2 and "pipe/report.html" in again.stdout
    for wrong in (["--executor", "slurn"], ["--tasks", "2"], ["--workers", "0"], ["--set", "x"]):
        assert isinstance(CliRunner().invoke(app, ["run", str(file), *wrong]).exception, UsageError)


@pytest.mark.parametrize("name", STAGES.names())
def test_every_stage_declares_itself(name: str) -> None:
    stage = STAGES.get(name)
    assert stage.__doc__ and stage.Config.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert isinstance(STAGES, Kind)
    assert not set(stage.sides) & set(stage.Config.__dataclass_fields__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.toml")))
def test_examples_are_pipelines(name: str, tmp_path: Path, jsonl: Write, tokenizer: Path) -> None:
    dump = tmp_path / "x.xml.bz2"
    dump.write_bytes(b"")
    pages = jsonl("pages.jsonl", ["a"])
    inputs = {"dump": str(dump), "pages": str(pages), "gpt2": str(tokenizer), "lambada": str(pages)}
    toml = (EXAMPLES / name).read_text()
    variables = {key: value for key, value in inputs.items() if f"\n{key} = " in toml}
    assert len(load(EXAMPLES / name, tmp_path / "out", variables).steps) >= 5


def test_openwebtext_end_to_end(tmp_path: Path, jsonl: Write, tokenizer: Path) -> None:
    """Pages of every fate, from URL to tokens."""
    long = [" ".join(text(i * 10 + j) for j in range(8)) for i in range(30)]
    pages = [{"url": f"https://example.org/{i}", "text": long[i]} for i in range(30)]
    pages += [
        {"url": "https://example.org/3", "text": "the same URL"},
        {"url": "https://example.org/picture.jpg", "text": long[0] + "x"},
        {"url": "https://example.org/short", "text": "Too short a page in English."},
        {"url": "https://example.org/german", "text": "Der Hund läuft über die Straße und bellt. " * 40},
        {"url": "https://example.org/copy", "text": long[5] + " And a new end."},
    ]
    task = jsonl("lambada.jsonl", [{"text": long[7][300:420]}])
    variables = {"pages": str(jsonl("pages.jsonl", pages)), "gpt2": str(tokenizer), "lambada": str(task)}
    report = run_pipeline(load(EXAMPLES / "openwebtext.toml", tmp_path / "out", variables))
    steps = {step.name: step.report for step in report.steps}
    assert steps["urls"]["documents_in"] == 35 and steps["urls"]["documents_out"] == 33
    assert steps["clean"]["documents_out"] == 31 and set(steps["clean"]["rejected"]) == {"language", "min-tokens"}
    assert steps["dedup"]["removed"] == 1
    assert steps["decontaminate"]["contaminated"]["lambada"] >= 1
    assert steps["preprocess"]["documents_in"] == steps["decontaminate"]["documents_out"]


def test_wikipedia_end_to_end(shared_data: Path, tmp_path: Path) -> None:
    (dump,) = (shared_data / "wiki").glob("*.bz2")
    variables = {"dump": str(dump), "vocab_size": "2000"}
    report = run_pipeline(load(EXAMPLES / "wikipedia.toml", tmp_path, variables), InProcess(2))
    steps = {step.name: step.report for step in report.steps}
    assert steps["wiki"]["documents_out"] == 106 and steps["clean"]["documents_out"] == 104
    assert steps["preprocess"]["documents_in"] + steps["heldout"]["documents_in"] == steps["dedup"]["documents_out"]
    assert (tmp_path / "07-preprocess_text_document.bin").stat().st_size == 2 * steps["preprocess"]["tokens"]["text"]
    rejects = read(tmp_path / "02-clean.rejects.jsonl")
    assert len(rejects) == 2 and all(record["reason"].startswith("min-chars") for record in rejects)
