"""The command itself: `mcc train` with two ranks that share the device, its checkpoint, and going on from it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mcc.data.indexed import IndexedWriter
from mcc.train import metrics

_SHAPE = {"num-layers": 2, "hidden-size": 64, "num-attention-heads": 4, "seq-length": 32, "vocab-size": 211}
_RUN = {"micro-batch-size": 2, "global-batch-size": 8, "eval-iters": 1, "memory-interval": 1, "lr": 1e-3}


def measure(device: str, tiny: bool) -> list[dict[str, Any]]:
    """The rows of both runs. They are as short on a GPU: what is looked at is whether they end well."""
    with tempfile.TemporaryDirectory() as folder:
        data, save = Path(folder, "tokens"), Path(folder, "run")
        generator = np.random.default_rng(0)
        with IndexedWriter(data, np.dtype("<u2")) as writer:
            for _ in range(200):
                writer.add(generator.integers(0, 211, 50))
        layout = ["--nproc", "2", "--tp", "2", "--precision", "bf16", "--device", device]
        flags = [word for name, value in (_SHAPE | _RUN).items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "mcc", "train", *flags, *layout, "--save", str(save), "--json"]
        command += ["--data-path", str(data), "--split", "90,10,0"]
        rows = []
        for what, more in (
            ("two ranks train and save", ["--train-iters", "4"]),
            ("go on from there, saving in the background", ["--train-iters", "6", "--resume", "--async-save"]),
        ):
            done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
            steps = [line for line in metrics.read(save) if "loss" in line]
            ok = done.returncode == 0 and len(steps) == int(more[1]) and len(steps[-1].get("memory_bytes", ())) == 2
            row: dict[str, Any] = {"what": f"mcc train, tp 2: {what}", "ok": ok, "bar": "ends well"}
            if not ok:
                row["what"] += f": exit code {done.returncode}, {done.stderr.strip()[-300:]}"
            rows.append(row)
        return rows
