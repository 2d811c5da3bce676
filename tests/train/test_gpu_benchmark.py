"""The GPU machine's script does all its parts on the CPU, small; without a GPU it says so in a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.py"


def _run(*arguments: str) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_part_on_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    done = _run("--device", "cpu", "--tiny", "--eager", "--json", str(tmp_path / "rows.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "rows.json").read_text())
    parts = [row["part"] for row in found["rows"]]
    assert list(dict.fromkeys(parts)) == ["layouts", "nccl", "command", "speed", "memory", "kernels"]
    assert all(row.get("ok", True) for row in found["rows"])
    assert sum("ok" in row for row in found["rows"]) >= 11
    assert found["machine"]["device"] == "the CPU"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said_in_a_line() -> None:
    done = _run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: --device cuda, but torch sees no GPU; --device cpu --tiny tries every part without one"
    ]
