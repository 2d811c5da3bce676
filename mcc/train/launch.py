"""Starts a training run: as a rank under torchrun or Slurm, or with its own ranks through torch's elastic launcher."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcc.core import provenance
from mcc.core.config import plain
from mcc.core.errors import MccError, UsageError
from mcc.core.events import Reporter
from mcc.core.ranks import from_environment
from mcc.train.config import TrainConfig
from mcc.train.prepare import prepare
from mcc.train.worker import work


def run(
    config: TrainConfig, nproc: int | None = None, make_reporter: Callable[[], Reporter] | None = None
) -> TrainConfig:
    """Train to the end; returns the resolved configuration. Results are in the run's folder.

    Args:
        config: the run.
        nproc: ranks to start on this machine; None where torchrun or Slurm started this rank, or for a single one.
        make_reporter: makes rank 0's reporter; a module-level function.

    Raises:
        UsageError: the configuration can't run; nothing was started.
        MccError: a rank failed; names it and why.
    """
    ranks = from_environment()
    if ranks is not None and nproc is not None:
        raise UsageError(f"--nproc {nproc} inside a launched rank", "torchrun or Slurm starts the ranks: drop --nproc")
    world = ranks.world_size if ranks else nproc or 1
    resolved, tokenizer = prepare(config, world)
    if resolved.run.save and (ranks is None or ranks.rank == 0):
        provenance.write(resolved.run.save, plain(resolved), {"seed": resolved.run.seed})
    if ranks is not None:
        work(resolved, tokenizer, make_reporter)
    elif world == 1:
        _alone(resolved, tokenizer, make_reporter)
    else:
        _launch(resolved, tokenizer, world, make_reporter)
    return resolved


def _alone(config: TrainConfig, tokenizer: str | None, make_reporter: Callable[[], Reporter] | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=f"file://{scratch}/rendezvous", rank=0, world_size=1)
        try:
            from mcc.core.events import SILENT
            from mcc.train.loop import train

            train(config, tokenizer, make_reporter() if make_reporter else SILENT)
        finally:
            dist.destroy_process_group()


def _launch(
    config: TrainConfig, tokenizer: str | None, nproc: int, make_reporter: Callable[[], Reporter] | None
) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Ranks are forked from a clean server that has imported torch once: eight start in a second on two cores, and no
    # thread of this process is copied.
    multiprocessing.set_forkserver_preload(["mcc.train.worker"])
    if "GLOO_SOCKET_IFNAME" not in os.environ and Path("/sys/class/net/lo").exists():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="mcc-train-") as scratch:
        failures = Path(scratch) / "failures"
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=nproc,
            run_id=Path(scratch).name,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=0.1,
            start_method="forkserver",
        )
        try:
            elastic_launch(settings, work)(config, tokenizer, make_reporter, failures)
        except ChildFailedError as error:
            raise _first_failure(error, failures, config) from None


def _first_failure(error: Any, folder: Path, config: TrainConfig) -> MccError:
    """The rank that failed first, not those that only saw it vanish."""
    accounts = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("rank_*.json")]
    causes = sorted((a for a in accounts if not a["lost_peer"]), key=lambda a: a["time"])
    if causes:
        first = causes[0]
        kept = _keep(first, config)
        kind = UsageError if first["exit_code"] == UsageError.exit_code else MccError
        where = "" if kept is None else f"traceback in {kept}"
        return kind(f"rank {first['rank']} ({_place(first['rank'], config)}): {first['what']}", first["hint"] or where)
    rank, failure = error.get_first_failure()
    name = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    hint = "continue with --resume" if config.run.save else None
    return MccError(f"rank {rank} ({_place(rank, config)}) died: {name}", hint)


def _place(rank: int, config: TrainConfig) -> str:
    tp, dp = config.parallel.tp, config.parallel.dp or 1
    return f"pp {rank // (tp * dp)}, dp {rank // tp % dp}, tp {rank % tp}"


def _keep(failure: dict[str, Any], config: TrainConfig) -> Path | None:
    """The traceback of a rank that failed by our bug, kept in the run's folder."""
    if failure["known"] or not config.run.save:
        return None
    path = Path(config.run.save) / f"rank_{failure['rank']}.traceback"
    path.write_text(failure["traceback"], encoding="utf-8")
    return path
