"""Papers' comparisons: what is run, what is kept, what is told of a failure, and what the table says."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mcc.core.errors import UsageError
from mcc.core.events import SILENT, Reporter, Silent
from mcc.train.compress.presets import expand
from mcc.train.compress.spec import parse_all
from mcc.train.papers.base import links
from mcc.train.papers.base.bench import rerun
from mcc.train.papers.base.config import PaperConfig, Place
from mcc.train.papers.base.paper import Paper, Setting, Values, papers
from mcc.train.papers.base.plot import draw
from mcc.train.papers.base.report import Report, Row, markdown
from mcc.train.papers.base.texts import beginning, first_tokens
from tests.train.job import tokens
from tests.train.toy import MODEL

# Does as `mcc train`: half the bytes where anything is compressed, a failure or no end where that is asked for.
PROGRAM = """
import json, sys, time
from pathlib import Path
words = sys.argv[1:]
run = Path(words[words.index("--save") + 1])
with open(run.parents[1] / "calls", "a") as calls:
    calls.write(run.parent.name + "\\n")
codec = words[words.index("--compress") + 1].split("=")[1] if "--compress" in words else ""
if codec == "fails":
    print("warning: something")
    sys.exit("error: rank 1: no such codec\\nhint: none")
run.mkdir()
(run / "iter_0000004").mkdir()
with open(run / "metrics.jsonl", "w") as file:
    for step in range(1, 5):
        sent = {"pp.forward": 50 if codec else 100, "norm": 8}
        line = {"step": step, "loss": 5.0 - step, "step_time_s": 0.5, "wire_bytes": sent}
        file.write(json.dumps(line | ({"memory_bytes": [10, 20 + step]} if step > 2 else {})) + "\\n")
    file.write(json.dumps({"step": 4, "heldout_loss": 1.25}) + "\\n")
if codec == "hangs":
    time.sleep(60)
"""


class Told(Silent):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class _Toy(Paper):
    source, layout, rates, quality = "nobody", "pp=2", ("10mbit",), "held-out loss"
    codecs: Sequence[str] = ("quantize", "topk")

    def settings(self) -> Sequence[Setting]:
        compressed = [Setting(name=codec, compress=(f"pp.forward={codec}",)) for codec in self.codecs]
        return [Setting(name="dense"), *compressed, Setting(name="more", full=True)]

    def training(self, config: PaperConfig, place: Place, reporter: Reporter) -> Values:
        return {"run.train_iters": config.steps or 4, "data.data_path": f"{place.data}/tokens"}

    def figures(self, scores: Values) -> dict[str, float]:
        return {"held-out loss": scores["heldout_loss"]}


def toy(folder: Path, reporter: Reporter = SILENT, codecs: Sequence[str] = _Toy.codecs, **config: Any) -> Report:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    paper = _Toy()
    paper.codecs = codecs
    given = {"out": str(folder / "results"), "data": str(folder), "links": False, **config}
    return rerun("toy", paper, PaperConfig(**given), reporter, (sys.executable, str(program)))


def calls(folder: Path) -> list[str]:
    return (folder / "results" / "work" / "toy" / "calls").read_text().split()


def test_every_setting_is_run_once_and_kept(tmp_path: Path) -> None:
    report = toy(tmp_path)
    assert calls(tmp_path) == ["dense", "quantize", "topk"]
    again = toy(tmp_path)
    assert calls(tmp_path) == ["dense", "quantize", "topk"]
    assert again.rows == report.rows
    toy(tmp_path, codecs=("quantize", "topk", "sign"))
    assert calls(tmp_path)[3:] == ["sign"]
    toy(tmp_path, steps=2)  # other runs
    assert calls(tmp_path)[4:] == ["dense", "quantize", "topk"]
    toy(tmp_path, size="full", steps=2)
    assert calls(tmp_path)[7:] == ["more"]
    assert not list(tmp_path.glob("results/work/toy/*/run/iter_*"))


def test_the_table_has_scores_bytes_and_memory(tmp_path: Path) -> None:
    report = toy(tmp_path)
    columns, rows = report.table()
    assert columns == ["setting", "held-out loss", "training loss", "PP, MB", "x fewer bytes", "memory, MB"]
    assert rows[0] == ["dense", 1.25, 1.0, 0.0001, 1.0, 24e-6]
    assert rows[1][3:5] == [0.00005, 2.0]
    written = json.loads((tmp_path / "results" / "toy.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["dense", "quantize", "topk"]
    assert written["no_links"] == "not asked for"
    assert str(tmp_path) not in (tmp_path / "results" / "toy.json").read_text()  # DATA stands for it
    page = (tmp_path / "results" / "toy.md").read_text()
    assert "| quantize | 1.25 | 1 | 5e-05 | 2 |" in page
    assert "- topk: `pp.forward=topk`" in page
    assert "mcc train --train-iters 4 --data-path DATA/tokens --pp 2" in page
    draw(report, tmp_path / "toy.svg")
    assert (tmp_path / "toy.svg").read_text().count("quantize") >= 1


def test_a_failed_setting_is_told_and_the_others_run(tmp_path: Path) -> None:
    told = Told()
    report = toy(tmp_path, told, ("fails", "topk"))
    assert [row.error for row in report.rows] == [None, "fails: rank 1: no such codec", None]
    assert len(told.warnings) == 1 and "fails: rank 1: no such codec" in told.warnings[0]
    assert "| fails |" in markdown(report) and "no such codec" in markdown(report)
    toy(tmp_path, codecs=("fails", "topk"))
    assert calls(tmp_path) == ["dense", "fails", "topk", "fails"]  # what failed is tried again


def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    report = toy(tmp_path, codecs=("hangs",), only=("hangs",), limit=3.0)
    assert report.rows[1].error == "hangs: ended after 3 s at step 4 of 4"


def test_some_settings_alone(tmp_path: Path) -> None:
    assert [row.name for row in toy(tmp_path, only=("topk", "more")).rows] == ["dense", "topk", "more"]
    with pytest.raises(UsageError, match="unknown setting 'topkk'; did you mean 'topk'"):
        toy(tmp_path, only=("topkk",))


def test_links_are_timed_where_the_machine_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "why_not", lambda: "this is not root")
    report = toy(tmp_path, links=True)
    assert report.no_links == "this is not root" and "this is not root" in markdown(report)
    asked = []

    def timed(paper: Paper, settings: Sequence[Setting], *rest: Any) -> Any:
        asked.extend(setting.name for setting in settings)
        return {"dense": {"unshaped": 0.5, "10mbit": 2.0}, "topk": {"unshaped": 0.5, "10mbit": None}}, {"10mbit": 9.6}

    monkeypatch.setattr(links, "why_not", lambda: None)
    monkeypatch.setattr(links, "timed", timed)
    report = toy(tmp_path, links=True)
    assert asked == ["dense", "quantize", "topk"]
    columns, rows = report.table()
    assert columns[-2:] == ["step at unshaped, ms", "step at 10mbit, ms"]
    assert [row[-2:] for row in rows] == [[500.0, 2000.0], [None, None], [500.0, None]]
    draw(report, tmp_path / "toy.png")
    assert (tmp_path / "toy.png").stat().st_size > 5000


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    place = Place(models=None, data=tmp_path, work=tmp_path)
    with pytest.raises(UsageError, match="needs minilm-bert"):
        place.model("minilm-bert")
    with pytest.raises(UsageError, match="no folder mrpc"):
        place.data_set("mrpc")


def test_a_row_without_bytes_has_no_ratio() -> None:
    rows = [Row(name="dense", compress=(), run={"last_wire_bytes": {"norm": 8}, "train_loss": 1.0})]
    report = Report(paper="toy", source="", layout="pp=2", size="quick", quality="", rows=rows)
    assert report.table() == (["setting", "training loss"], [["dense", 1.0]])


def test_texts_are_cut_where_they_should(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes("\ufeffone two\r\nthree\nfour".encode())
    assert beginning(text, tmp_path / "a", 2).read_bytes() == "\ufeffone two\r\nthree\n".encode()
    assert beginning(text, tmp_path / "a", 0).read_bytes() == text.read_bytes()


def test_a_text_is_cut_after_so_many_tokens(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("one two one three two")
    cut = first_tokens(tmp_path / "text.txt", tmp_path / "cut.jsonl", tmp_path, 3)
    assert json.loads(cut.read_text()) == {"text": "one two one"}


@pytest.mark.parametrize("name", papers.names())
def test_settings_of_papers_make_sense(name: str) -> None:
    paper = papers.get(name)()
    first, *others = paper.settings()
    assert not first.compress and not first.full and paper.ranks > 1
    assert len({setting.name for setting in (first, *others)}) == 1 + len(others)
    for setting in others:
        compress, _ = expand(setting.compress)
        parse_all(compress)


class _Small(_Toy):
    """Real runs, of a model of a few thousand weights."""

    prefix = ""

    def settings(self) -> Sequence[Setting]:
        return [Setting(name="dense"), Setting(name="q4", compress=("pp.forward=quantize:bits=4",))]

    def training(self, config: PaperConfig, place: Place, reporter: Reporter) -> Values:
        assert place.data
        model = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "seq_length": 16}
        values = {f"model.{key}": value for key, value in model.items()} | {"model.vocab_size": MODEL.vocab_size}
        data = {"data.data_path": str(tokens(place.data)), "data.split": "1,1,0"}
        run = {"micro_batch_size": 1, "global_batch_size": 4, "train_iters": 2, "eval_iters": 1}
        return {**values, **data, **{f"run.{key}": value for key, value in run.items()}}


@pytest.mark.slow
def test_runs_are_those_of_mcc_train(tmp_path: Path) -> None:
    config = PaperConfig(out=str(tmp_path / "results"), data=str(tmp_path), links=False)
    report = rerun("small", _Small(), config)
    assert [row.error for row in report.rows] == [None, None]
    dense, small = report.rows
    assert dense.wire_bytes["pp.forward"] == 4 * 16 * 32 * 4
    assert small.wire_bytes["pp.forward"] == 4 * 16 * (32 // 2 + 2)  # two values a byte, and a scale a token
    assert 3 < dense.figures["held-out loss"] < 6
    assert len(dense.run["memory_bytes"]) == 2


def test_aq_sgds_settings_have_its_quantiser():
    """That of its preset forward, whose bits are 4 and 8; gradients have a grid for any precision there."""
    (setting,) = [setting for setting in papers.get("aq-sgd")().settings() if setting.name == "delta-fw4-bw8"]
    wanted, _ = expand(("aq-sgd",))
    theirs, ours = parse_all(setting.compress), parse_all(wanted)
    assert theirs["pp.forward"] == ours["pp.forward"]
    (grid, own) = (found["pp.backward"].options for found in (theirs, ours))
    assert grid.grid == "acsgd" and own == dataclasses.replace(grid, grid="midrise")
