"""The whole job on a small budget: every part runs for real, and the summary holds what it must."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mcc.quickstart.config import COMPRESS

CHECKS = {
    "dense_loss_well_below_unigram_entropy",
    "compressed_loss_well_below_unigram_entropy",
    "compressed_loss_within_3_percent_of_dense",
    "compressed_sites_send_4x_less",
    "hf_logits_equal_within_1e-4",
}
RUN = {"final_train_loss", "heldout_loss", "word_perplexity", "cloze_accuracy", "tokens_per_s", "wire_bytes"}


def mcc(*words):
    return subprocess.run([sys.executable, "-m", "mcc", *words], capture_output=True, text=True, timeout=580)


@pytest.mark.timeout(600)
def test_quickstart_end_to_end(tmp_path):
    out = tmp_path / "out"
    # Too few steps to learn much, enough for the bytes: 20 of them make the warm-up of dp.grad one step.
    done = mcc("quickstart", "--out", str(out), "--steps", "20", "--hidden-size", "64", "--num-layers", "2", "--json")
    summary = json.loads(done.stdout)
    assert json.loads((out / "summary.json").read_text()) == summary
    assert done.stderr == ""
    assert summary["docs_in"] >= summary["docs_kept"] > 0
    assert summary["tokens"] > 100_000
    assert summary["hf_logits_max_abs_diff"] <= 1e-4
    assert set(summary["checks"]) == CHECKS
    assert done.returncode == (0 if all(summary["checks"].values()) else 1)
    assert summary["checks"]["hf_logits_equal_within_1e-4"]
    assert summary["checks"]["compressed_loss_within_3_percent_of_dense"]
    for run in summary["runs"].values():
        assert set(run) == RUN
    dense, small = (summary["runs"][run]["wire_bytes"] for run in ("dense", "compressed"))
    assert set(dense) == set(small)
    compressed = {text.partition("=")[0] for text in COMPRESS}
    assert all(small[site] < dense[site] for site in compressed)
    assert all(small[site] == dense[site] for site in set(dense) - compressed)
    page = (out / "report.html").read_text()
    assert "data:image" in page and 'href="http' not in page
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["steps"] == 20 and record["seeds"] == {"seed": 1234}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("broken.jsonl", '{"text": "fine"}\n{"text": "torn\n', "broken.jsonl:2"),
        ("empty.jsonl", "", "empty.jsonl"),
        ("keyless.jsonl", '{"body": "x"}\n', "keyless.jsonl:1"),
        ("short.txt", "A few words, which are no corpus.\n", ""),
        ("what.pdf", "%PDF", "what.pdf"),
    ],
)
def test_a_bad_corpus_is_one_clear_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    done = mcc("quickstart", "--out", str(tmp_path / "out"), "--corpus", str(tmp_path / name))
    assert done.returncode in (1, 2)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert lines[0].startswith("error: ") and words in lines[0]
    assert len(lines) <= 2 and all(line.startswith(("error: ", "hint: ")) for line in lines)


def test_a_missing_corpus_is_one_clear_line(tmp_path):
    done = mcc("quickstart", "--out", str(tmp_path / "out"), "--corpus", str(tmp_path / "nowhere.jsonl"))
    assert done.returncode != 0
    assert done.stderr.startswith("error: ") and "nowhere.jsonl" in done.stderr


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = mcc("quickstart", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "no quickstart's folder" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
