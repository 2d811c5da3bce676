"""Whole runs through the command line: launched, under torchrun, killed and resumed."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer

from mcc.cli import train as train_command
from mcc.core.config import resolve
from mcc.core.errors import UsageError
from mcc.core.files import PARTIAL
from mcc.data.indexed import IndexedWriter
from mcc.train import metrics
from mcc.train.config import DataConfig, ParallelConfig, RunConfig, SafetyConfig, TrainConfig
from mcc.train.launch import run
from mcc.train.prepare import prepare
from tests.train.job import job as forked_job
from tests.train.toy import MODEL

COMPRESS_PP = ["--compress", "pp.backward=powersgd:rank=4,feedback=on", "--compress", "pp.forward=quantize:bits=6"]
# Threads of several ranks on few cores would wait for each other.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
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
    return subprocess.run(
        [sys.executable, "-m", "mcc", *words], capture_output=True, text=True, timeout=200, env=ENVIRONMENT
    )


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


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mcc", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def reach(job: subprocess.Popen[str], save: Path, step: int) -> None:
    until = time.monotonic() + 120
    while len(metrics.read(save)) < step and time.monotonic() < until and job.poll() is None:
        time.sleep(0.02)


def uninterrupted(words: list[str], world: int, folder: Path) -> list[tuple[int, float]]:
    """The losses of the same run when nothing happens to it: `words` are those of the command line."""
    ctx = typer.main.get_command(train_command.app).make_context("train", list(words))
    given = {k: v for k, v in ctx.params.items() if ctx.get_parameter_source(k).name == "COMMANDLINE"}
    settings = {k.replace("__", "."): tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    config, _ = prepare(resolve(TrainConfig, None, settings), world)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, save=str(folder / "whole")))
    with forked_job(config, world, folder) as job:
        assert job.end(100) == [0] * world
    return losses(folder / "whole")


on_linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds ranks through /proc")


@on_linux
def test_a_killed_rank_ends_the_job_in_two_lines(tmp_path, data):
    job = start("train", *settings(data, tmp_path / "run", 5000), "--pp", "2", "--nproc", "2")
    try:
        reach(job, tmp_path / "run", 3)
        os.kill(rank_process(job.pid, 1), signal.SIGKILL)
        at = time.monotonic()
        _, stderr = job.communicate(timeout=60)
    finally:
        job.kill()
    assert time.monotonic() - at < PEER_LIMIT_S
    assert job.returncode == 1
    assert stderr == "error: rank 1 (pp 1, dp 0, tp 0) died: SIGKILL\nhint: continue with --resume\n"


@on_linux
def test_the_launcher_starts_a_killed_rank_again(tmp_path, data):
    save = tmp_path / "run"
    words = [*settings(data, save, 60), "--pp", "2", *COMPRESS_PP, "--save-interval", "10", "--keep-last", "2"]
    whole = uninterrupted(words, 2, tmp_path)
    job = start("train", *words, "--nproc", "2", "--max-restarts", "1")
    try:
        reach(job, save, 12)
        os.kill(rank_process(job.pid, 1), signal.SIGKILL)
        _, stderr = job.communicate(timeout=100)
    finally:
        job.kill()
    assert job.returncode == 0, stderr
    assert stderr == "warning: started again after a failure: a rank died\n"
    assert losses(save) == whole
    assert sorted(f.name for f in save.glob("iter_*")) == ["iter_0000050", "iter_0000060"]
    assert not list(save.glob(f".*{PARTIAL}"))


@on_linux
def test_ranks_whose_launcher_was_suspended_go_on(tmp_path, data):
    save = tmp_path / "run"
    job = start("train", *settings(data, save, 100_000), "--tp", "2", "--nproc", "2", "--heartbeat-timeout", "2")
    try:
        reach(job, save, 3)
        job.send_signal(signal.SIGSTOP)  # as Ctrl-Z: the ranks are not of its process group, and it hosts their store
        time.sleep(10)  # the timeout, and the grace, and more
        job.send_signal(signal.SIGCONT)
        reach(job, save, len(metrics.read(save)) + 20)
        job.terminate()
        _, stderr = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == 0, stderr


@on_linux
def test_sigterm_to_the_launcher_saves_and_exits_well(tmp_path, data):
    save = tmp_path / "run"
    job = start("train", *settings(data, save, 5000), "--tp", "2", "--nproc", "2")
    try:
        reach(job, save, 3)
        job.terminate()
        _, stderr = job.communicate(timeout=60)
    finally:
        job.kill()
    last = losses(save)[-1][0]
    assert job.returncode == 0, stderr
    assert stderr == f"warning: stopped by a signal after step {last} of 5000; continue with --resume\n"
    assert [f.name for f in save.glob("iter_*")] == [f"iter_{last:07d}"]


DIES_ONCE = """
import os, signal
from mcc.train.engine import Engine
inner = Engine.step
def step(self, batch):
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1" and self.iteration == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, batch)
Engine.step = step
from mcc.cli.main import run
run()
"""


@pytest.mark.slow
def test_under_torchrun_with_restarts(tmp_path, data):
    (tmp_path / "dies.py").write_text(DIES_ONCE)
    words = [*settings(data, tmp_path / "run", 20), "--tp", "2", "--save-interval", "10"]
    whole = uninterrupted(words, 2, tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--max-restarts", "1", str(tmp_path / "dies.py"), "train", *words],
        capture_output=True,
        text=True,
        timeout=200,
        env=ENVIRONMENT | {"PYTHONPATH": str(Path.cwd())},
    )
    assert done.returncode == 0, done.stderr
    assert "warning: started again after a failure" in done.stderr
    assert losses(tmp_path / "run") == whole
    assert done.stdout.count("final_train_loss") == 1


def test_restarts_need_a_folder_and_a_launcher(tmp_path, data, monkeypatch):
    again = SafetyConfig(max_restarts=1)
    with pytest.raises(UsageError, match="--max-restarts needs --save"):
        run(config(data, safety=again))
    monkeypatch.setattr(os, "environ", os.environ | {"RANK": "0", "WORLD_SIZE": "1"})
    with pytest.raises(UsageError, match="started by another launcher") as caught:
        run(config(data, safety=again, run=RunConfig(eval_iters=0, save=str(tmp_path / "run"))))
    assert "torchrun --max-restarts" in str(caught.value.hint)
    assert not (tmp_path / "run").exists()


def test_a_run_is_recorded_and_not_overwritten(tmp_path, data):
    args = settings(data, tmp_path / "run", 3)
    first = mcc("train", *args)
    assert first.returncode == 0, first.stderr
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        ".lock",
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
