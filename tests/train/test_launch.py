"""Whole runs through the command line: launched, under torchrun, killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mcc.core.errors import UsageError
from mcc.core.files import PARTIAL
from mcc.data.indexed import IndexedWriter
from mcc.train import metrics
from mcc.train.config import DataConfig, ParallelConfig, RunConfig, TrainConfig
from mcc.train.prepare import prepare
from tests.train.toy import MODEL

LAYOUT = ["--tp", "2", "--pp", "2"]
COMPRESS = ["--compress", "pp.backward=powersgd:rank=4,feedback=on", "--compress", "tp.forward=quantize:bits=6"]
PEER_LIMIT_S = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Token files of 40 random documents."""
    prefix = tmp_path_factory.mktemp("data") / "tokens"
    generator = np.random.default_rng(0)
    with IndexedWriter(prefix, np.dtype("<u2")) as writer:
        for _ in range(40):
            writer.add(generator.integers(0, MODEL.vocab_size, 100))
    return prefix


def settings(data: Path, save: Path, iters: int) -> list[str]:
    model = ["--num-layers", "2", "--hidden-size", "32", "--seq-length", "16", "--vocab-size", str(MODEL.vocab_size)]
    batch = ["--micro-batch-size", "2", "--global-batch-size", "4", "--eval-iters", "0"]
    return ["--data-path", str(data), *model, *batch, "--train-iters", str(iters), "--save", str(save)]


def mcc(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mcc", *words], capture_output=True, text=True, timeout=200)


def losses(save: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in metrics.read(save)]


def rank_process(parent: int, rank: int) -> int:
    """The process id of a rank among the descendants of `parent`."""
    for folder in Path("/proc").iterdir():
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
            stat = (folder / "stat").read_text()
        except (OSError, ValueError):
            continue
        if f"RANK={rank}".encode() in environ and int(stat.rpartition(")")[2].split()[1]) == parent:
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds ranks through /proc")
def test_a_killed_rank_ends_the_job_and_resume_continues_exactly(tmp_path, data):
    args = [*LAYOUT, *COMPRESS, "--nproc", "4", "--save-interval", "20"]
    whole = mcc("train", *settings(data, tmp_path / "whole", 120), *args)
    assert whole.returncode == 0, whole.stderr
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "mcc", "train", *settings(data, killed, 120), *args]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while len(metrics.read(killed)) < 45 and time.monotonic() < until and job.poll() is None:
            time.sleep(0.02)
        os.kill(rank_process(job.pid, 2), signal.SIGKILL)
        at = time.monotonic()
        _, stderr = job.communicate(timeout=60)
    finally:
        job.kill()
    assert time.monotonic() - at < PEER_LIMIT_S
    assert job.returncode == 1
    assert stderr == "error: rank 2 (pp 1, dp 0, tp 0) died: SIGKILL\nhint: continue with --resume\n"
    resumed = mcc("train", *settings(data, killed, 120), *args, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert losses(killed) == losses(tmp_path / "whole")
    assert len(losses(killed)) == 120
    assert not list(killed.glob(f".*{PARTIAL}"))


def test_under_torchrun_as_launched(tmp_path, data):
    launched = mcc("train", *settings(data, tmp_path / "a", 5), "--nproc", "2", "--tp", "2")
    assert launched.returncode == 0, launched.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "mcc"]
    words = [*torchrun, "train", *settings(data, tmp_path / "b", 5), "--tp", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_a_run_is_recorded_and_not_overwritten(tmp_path, data):
    args = settings(data, tmp_path / "run", 3)
    first = mcc("train", *args)
    assert first.returncode == 0, first.stderr
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "iter_0000003",
        "latest",
        "metrics.jsonl",
        "run.json",
    ]
    again = mcc("train", *args)
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_rank_that_fails_is_named_with_its_reason(tmp_path):
    """Rank-side failure: the data has a token that the vocabulary lacks."""
    with IndexedWriter(tmp_path / "tokens", np.dtype("<u2")) as writer:
        writer.add(np.full(200, MODEL.vocab_size + 5))
    done = mcc("train", *settings(tmp_path / "tokens", tmp_path / "run", 3), "--nproc", "2", "--split", "1,0,0")
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("error: rank ") and "the data has token 106, but vocab_size is 101" in first
    assert second == "hint: the data was made with another tokenizer"


def config(prefix: Path, **sections) -> TrainConfig:
    base = {"model": MODEL, "data": DataConfig(data_path=str(prefix)), "run": RunConfig(eval_iters=0)}
    return TrainConfig(**{**base, **sections})


@pytest.mark.parametrize(
    ("world", "sections", "words"),
    [
        (1, {"parallel": ParallelConfig(tp=2)}, "dp*tp*pp = 1*2*1 = 2 but world size is 1"),
        (8, {"parallel": ParallelConfig(tp=8)}, "tp = 8 does not divide num_attention_heads = 4"),
        (5, {"parallel": ParallelConfig(pp=5)}, "pp = 5 is more than num_layers = 4"),
        (3, {}, "global_batch_size = 16 is not a multiple of micro_batch_size*dp = 4*3"),
        (4, {"parallel": ParallelConfig(pp=4), "run": RunConfig(global_batch_size=8)}, "needs at least pp = 4"),
        (1, {"compress": ("tp.forward=lowrank",)}, "unknown codec 'lowrank'"),
        (1, {"data": DataConfig(data_path="/nowhere/x")}, "/nowhere/x"),
        (1, {"data": DataConfig()}, "no training data"),
        (1, {"run": RunConfig(load="/nowhere/y")}, "/nowhere/y"),
    ],
)
def test_what_cannot_run_is_refused_before_it_starts(data, world, sections, words):
    with pytest.raises(Exception) as caught:
        prepare(config(data, **sections), world)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_resume_without_save_is_refused():
    with pytest.raises(UsageError, match="--resume needs --save"):
        RunConfig(resume=True)
