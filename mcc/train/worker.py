"""One rank: joins the process group, trains, and leaves a readable account when it fails.

python -m mcc.train.worker ORDER.json      as the launcher starts each rank
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mcc.core.config import build, plain
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.ranks import Ranks, from_environment
from mcc.train.config import TrainConfig
from mcc.train.loop import train

# A rank that only saw its peer vanish waits this long, so that the launcher finds the peer first and names it.
_MOURNING_S = 5.0
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


@dataclass(frozen=True, kw_only=True)
class Order:
    """What every rank of a run is told.

    Args:
        config: as `prepare` gave it.
        tokenizer: JSON, kept with every checkpoint.
        reporter: makes rank 0's reporter: a module-level function, since its name crosses processes.
        failures: folder for `rank_K.json`, written when rank K fails.
    """

    config: TrainConfig
    tokenizer: str | None = None
    reporter: Callable[[], Reporter] | None = None
    failures: Path | None = None

    def write(self, path: Path) -> None:
        """Store the order for the ranks to read."""
        reporter = f"{self.reporter.__module__}:{self.reporter.__qualname__}" if self.reporter else None
        values = {
            "config": plain(self.config),
            "tokenizer": self.tokenizer,
            "reporter": reporter,
            "failures": str(self.failures) if self.failures else None,
        }
        path.write_text(json.dumps(values), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Order:
        """The inverse of `write`."""
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        reporter = None
        if values["reporter"]:
            module, _, name = values["reporter"].partition(":")
            reporter = getattr(import_module(module), name)
        failures = Path(values["failures"]) if values["failures"] else None
        config = build(TrainConfig, values["config"])
        return Order(config=config, tokenizer=values["tokenizer"], reporter=reporter, failures=failures)


def work(order: Order) -> None:
    """Run this rank, from torchrun's or Slurm's environment variables."""
    ranks = from_environment() or Ranks()
    try:
        join(ranks)
        train(order.config, order.tokenizer, order.reporter() if order.reporter and ranks.rank == 0 else SILENT)
        dist.barrier()
    except BaseException as error:
        lost_peer = in_communication(error)
        if order.failures is not None:
            account(order.failures, ranks, error, lost_peer)
        if lost_peer:
            time.sleep(_MOURNING_S)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def in_communication(error: BaseException) -> bool:
    """Whether a collective or a message failed: a peer is gone, and this rank is not the cause."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = bool(frames) and str(Path("torch", "distributed")) in frames[-1].filename
    return inside and isinstance(error, RuntimeError)


def join(ranks: Ranks) -> None:
    """Join the process group over gloo, with a fair share of the cores."""
    cores = os.cpu_count() or 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world_size))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores // max(1, local)))
    if "MASTER_ADDR" not in os.environ and int(os.environ.get("SLURM_NNODES", "1")) > 1:
        raise UsageError("Slurm started ranks on several nodes, but MASTER_ADDR is not set", "set it to the first node")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    dist.init_process_group("gloo", rank=ranks.rank, world_size=ranks.world_size, timeout=timedelta(minutes=30))


def account(folder: Path, ranks: Ranks, error: BaseException, lost_peer: bool) -> None:
    """Write why a rank failed, for the launcher."""
    folder.mkdir(parents=True, exist_ok=True)
    known = isinstance(error, MccError)
    values = {
        "rank": ranks.rank,
        "time": time.time(),
        "lost_peer": lost_peer,
        "what": error.what if isinstance(error, MccError) else _one_line(error),
        "hint": error.hint if isinstance(error, MccError) else None,
        "exit_code": error.exit_code if isinstance(error, MccError) else 1,
        "known": known,
        "traceback": "".join(traceback.format_exception(error)),
    }
    (folder / f"rank_{ranks.rank}.json").write_text(json.dumps(values), encoding="utf-8")


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def main() -> None:
    """A rank that the launcher started: silent, its failure is in its account, and it ends when the launcher does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the launcher answers it
    try:
        work(Order.read(Path(sys.argv[1])))
    except MccError as error:
        sys.exit(error.exit_code)
    except Exception:
        sys.exit(1)


if __name__ == "__main__":
    main()
