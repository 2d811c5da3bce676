"""`mcc ckpt` as a user calls it: what it prints, its exit codes, its messages."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mcc.ckpt.format import WriteOptions, formats
from mcc.cli.main import main
from tests.ckpt.models import InMemory, transformers_gpt2


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A training run's folder with optimizer state."""
    source = InMemory(slots=("exp_avg", "exp_avg_sq"), iteration=12)
    formats.get("mcc")().write(source, tmp_path / "run", WriteOptions(tp=2, pp=2))
    return str(tmp_path / "run")


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """What `mcc ckpt words` prints on stdout (0) or stderr (an error), and nothing elsewhere of a traceback."""
    assert main(["ckpt", *map(str, words)]) == code
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return out.err if code else out.out


def test_tour(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged, meg, hf, back = (tmp_path / name for name in ("merged", "meg", "hf", "back"))
    assert "optimizer state" in said(capsys, "merge", run, merged)
    assert "megatron" in said(capsys, "split", merged, meg, "--tp", 2, "--pp", 4, "--megatron-version", 1)
    said(capsys, "merge", meg, back)
    assert (merged / "model.safetensors").read_bytes() == (back / "model.safetensors").read_bytes()
    done = json.loads(said(capsys, "convert", meg, hf, "--to", "hf", "--dtype", "float32", "--json"))
    assert (done["format"], done["dropped"]) == ("hf", [])

    same = json.loads(said(capsys, "diff", run, hf, "--json"))
    assert (same["equal"], same["max_abs"], len(same["tensors"])) == (True, 0.0, done["tensors"])
    verified = json.loads(said(capsys, "verify", run, "--against", hf, "--json"))
    assert verified["passed"]
    assert verified["runs"] == ["mcc", "transformers"]
    assert "differ by at most" in said(capsys, "verify", hf)

    shown = said(capsys, "inspect", run, "--tensors")
    for text in ("TP 2 x PP 2 x DP 1", "301, padded to 304", "exp_avg, exp_avg_sq", "layers.3.mlp.down.bias"):
        assert text in shown
    described = json.loads(said(capsys, "inspect", meg, "--json"))
    assert described["layout"] == {"tp": 2, "pp": 4, "dp": 1, "vpp": 1}
    assert "tensors" not in described
    assert len(json.loads(said(capsys, "inspect", meg, "--json", "--tensors"))["tensors"]) == done["tensors"]


def test_uses_that_make_no_sense(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, empty, meg = tmp_path / "out", tmp_path / "empty", tmp_path / "meg"
    empty.mkdir()
    said(capsys, "split", run, meg, "--tp", 2, "--pp", 1)
    for words, code, message in [
        (("merge", run, Path(run) / "inside"), 2, "would be inside the input"),
        (
            ("convert", run, out, "--to", "hf", "--megatron-version", 3),
            2,
            "--megatron-version has no effect with --to hf",
        ),
        (("split", run, out, "--tp", 2, "--pp", 1, "--to", "mcc", "--megatron-version", 2), 2, "has no effect"),
        (("reshard", run, out, "--tp", 2, "--pp", 1, "--megatron-version", 2), 2, "has no effect"),
        (("convert", run, out, "--to", "hf", "--pp", 2), 2, "hint: --to mcc, megatron"),
        (("inspect", empty), 1, "is empty"),
    ]:
        assert message in said(capsys, *words, code=code), words
        assert not out.exists()
    assert not list(Path(run).glob("*inside*"))
    os.truncate(meg / "iter_0000012" / "mp_rank_00" / "model_optim_rng.pt", 9000)
    assert "model_optim_rng.pt is truncated: its end" in said(capsys, "inspect", meg, code=1)


def test_what_is_not_read_is_told(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "split", run, tmp_path / "meg", "--tp", 1, "--pp", 1)
    (tmp_path / "meg" / "iter_0000012" / "mp_rank_00" / "distrib_optim.pt").write_bytes(b"state of one run's buffers")
    shown = said(capsys, "inspect", tmp_path / "meg")
    assert "optimizer state (a distributed optimizer's, in distrib_optim.pt)" in shown
    assert "has optimizer" not in shown


def test_diff_over_the_tolerance(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "convert", run, tmp_path / "half", "--to", "hf", "--dtype", "bf16")
    assert main(["ckpt", "diff", run, str(tmp_path / "half")]) == 1
    shown = capsys.readouterr()
    assert "52 tensors differ by up to" in shown.err
    assert "52 tensors compared, 0 identical; the 20 that differ most" in shown.out
    assert shown.out.count("float32 and bfloat16") == 20
    said(capsys, "diff", run, tmp_path / "half", "--tolerance", 0.01)
    assert main(["ckpt", "diff", run, str(tmp_path / "half"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["equal"] is False
    transformers_gpt2().save_pretrained(tmp_path / "other")  # three layers
    assert "in one checkpoint only" in said(capsys, "diff", run, tmp_path / "other", code=1)
    assert "over the tolerance" in said(capsys, "verify", run, "--against", tmp_path / "other", code=1)


def test_errors(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for words, code, message in [
        (("split", run, out, "--tp", 3, "--pp", 1), 2, "error: tp = 3 does not divide num_attention_heads = 4\nhint: "),
        (("split", run, out, "--tp", 1, "--pp", 3), 2, "pp = 3 does not divide num_layers = 4"),
        (("split", run, out, "--tp", 1), 2, "--pp"),
        (("split", run, out, "--tp", 1, "--pp", 0), 2, "--pp"),
        (("convert", run, out, "--to", "hff"), 2, "unknown checkpoint format 'hff'; did you mean 'hf'?"),
        (("convert", run, out, "--to", "hf", "--dtype", "float8"), 2, "unknown dtype 'float8'"),
        (("convert", run, out, "--to", "hf", "--tp", 2), 2, "one whole model"),
        (("inspect", tmp_path / "nothing"), 1, "no such checkpoint"),
        (("inspect", run, "--from", "hf"), 1, "is not in the format hf"),
    ]:
        assert message in said(capsys, *words, code=code), words
        assert not out.exists()
    said(capsys, "merge", run, out)
    assert "is not empty" in said(capsys, "merge", run, out, code=2)
    said(capsys, "merge", run, out, "--force")
    assert "nothing to compare" in said(capsys, "verify", out, code=2)

    assert "as it was written" in said(capsys, "verify", run)
    assert json.loads(said(capsys, "verify", run, "--json"))["files"] == 3
    data = next(Path(run).glob("iter_*/*.distcp"))
    os.truncate(data, data.stat().st_size // 4)
    message = said(capsys, "merge", run, tmp_path / "second", code=1)
    assert f"{data.name} is truncated in tensor model." in message
    assert not (tmp_path / "second").exists()
    for words in (("verify", run), ("verify", run, "--against", out)):
        assert f"{data.name} has {data.stat().st_size} bytes, not" in said(capsys, *words, code=1)


def test_the_output_does_not_depend_on_the_workers(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, plugin in formats.all():
        if plugin.read_only:
            continue
        layout = ["--tp", 2, "--pp", 2] if plugin.layouts else []
        held = []
        for workers in (0, 3):
            out = tmp_path / f"{name}-{workers}"
            said(capsys, "convert", run, out, "--to", name, "--workers", workers, *layout)
            held.append({str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()})
        assert held[0] == held[1], name
    assert "--workers" in said(capsys, "convert", run, tmp_path / "x", "--to", "hf", "--workers", -1, code=2)
