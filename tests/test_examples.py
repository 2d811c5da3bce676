"""The Slurm script in examples/, run by bash with stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from mcc.cli import train as train_command

SCRIPT = Path(__file__).parents[1] / "examples" / "train.sbatch"
# srun keeps what it was called with, saves a checkpoint of STEPS steps as mcc would, and fails where it is to.
SRUN = """#!/bin/bash
printf '%s\\n' "$@" > words
echo "$MASTER_ADDR $MASTER_PORT $SRUN_CPUS_PER_TASK" > env
mkdir -p run
printf 'iter_%07d' "$STEPS" > run/latest
exit "$STATUS"
"""
SCONTROL = """#!/bin/bash
case $1 in
    show) printf 'first\\nsecond\\n' ;;
    *) echo "$@" >> requeued ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


def job(folder: Path, steps: int, status: int = 0) -> int:
    """Run the script as job 12345 of 100 steps, of which `srun` does `steps`; its exit code."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "8"}
    asked = {"RUN": "run", "ITERS": "100", "STEPS": str(steps), "STATUS": str(status)}
    path = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", str(SCRIPT), "--tp", "4", "--data-path", "0.7", "a b", "0.3", "c"]
    return subprocess.run(command, cwd=folder, env={**os.environ, **job, **asked, **path}, check=False).returncode


def test_its_command_is_one_that_mcc_takes(tmp_path: Path) -> None:
    assert job(tmp_path, 100) == 0
    words = (tmp_path / "words").read_text().splitlines()
    assert (tmp_path / "env").read_text().split() == ["first", "22345", "8"]
    start = words.index("mcc")
    assert words[:start] == ["--kill-on-bad-exit=1"] and words[start + 1] == "train"
    context = typer.main.get_command(train_command.app).make_context("train", words[start + 2 :])
    given = {key: context.params[key] for key in ("run__save", "run__train_iters", "run__resume", "parallel__tp")}
    assert given == {"run__save": "run", "run__train_iters": 100, "run__resume": True, "parallel__tp": 4}


def test_a_job_that_was_stopped_goes_back_into_the_queue(tmp_path: Path) -> None:
    assert job(tmp_path, 40) == 0
    assert (tmp_path / "requeued").read_text() == "requeue 12345\n"


def test_a_finished_run_and_one_that_failed_do_not(tmp_path: Path) -> None:
    assert job(tmp_path, 100) == 0
    assert job(tmp_path, 40, status=137) == 137
    assert not (tmp_path / "requeued").exists()


def test_the_page_shows_the_script_as_it_is() -> None:
    page = (SCRIPT.parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"```bash\n{SCRIPT.read_text(encoding='utf-8')}```" in page
