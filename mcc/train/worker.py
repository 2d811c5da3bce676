"""One rank: joins the process group, trains, and leaves a readable account when it fails."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.core.ranks import Ranks, from_environment
from mcc.train.config import TrainConfig
from mcc.train.loop import train

# A rank that only saw its peer vanish waits this long, so that the launcher finds the peer first and names it.
_MOURNING_S = 5.0
_PEER_LOST = ("Connection closed by peer", "Connection reset", "Broken pipe", "Timed out", "Application timeout")


def work(
    config: TrainConfig,
    tokenizer: str | None,
    make_reporter: Callable[[], Reporter] | None = None,
    failures: Path | None = None,
) -> None:
    """Run this rank from torchrun's or Slurm's environment variables.

    Args:
        config: as `prepare` gave it.
        tokenizer: JSON, kept with every checkpoint.
        make_reporter: makes rank 0's reporter; a function, since it crosses processes.
        failures: folder for `rank_K.json`, written when this rank fails.
    """
    ranks = from_environment() or Ranks()
    try:
        join(ranks)
        reporter = make_reporter() if make_reporter and ranks.rank == 0 else SILENT
        train(config, tokenizer, reporter)
        dist.barrier()
    except BaseException as error:
        lost_peer = any(sign in str(error) for sign in _PEER_LOST)
        if failures is not None:
            account(failures, ranks, error, lost_peer)
        if lost_peer:
            time.sleep(_MOURNING_S)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def join(ranks: Ranks) -> None:
    """Join the process group over gloo, with a fair share of the cores."""
    cores = os.cpu_count() or 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world_size))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores // max(1, local)))
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
        "what": error.what if isinstance(error, MccError) else f"{type(error).__name__}: {error}".splitlines()[0],
        "hint": error.hint if isinstance(error, MccError) else None,
        "exit_code": error.exit_code if isinstance(error, MccError) else 1,
        "known": known,
        "traceback": "".join(traceback.format_exception(error)),
    }
    (folder / f"rank_{ranks.rank}.json").write_text(json.dumps(values), encoding="utf-8")
