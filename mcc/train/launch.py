"""Starts a training run: as a rank under torchrun or Slurm, or with its own ranks through torch's elastic launcher."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from mcc.core import provenance
from mcc.core.config import plain
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.ranks import from_environment
from mcc.train.config import TrainConfig
from mcc.train.loop import train
from mcc.train.prepare import prepare
from mcc.train.worker import Order, work


def run(config: TrainConfig, nproc: int | None = None, reporter: Callable[[], Reporter] | None = None) -> TrainConfig:
    """Train to the end; returns the resolved configuration. Results are in the run's folder.

    Args:
        config: the run.
        nproc: ranks to start on this machine; None where torchrun or Slurm started this rank, or for a single one.
        reporter: makes rank 0's reporter; a module-level function.

    Raises:
        UsageError: the configuration can't run; nothing was started.
        MccError: a rank failed; names it and why.
    """
    ranks = from_environment()
    if ranks is not None and nproc is not None:
        raise UsageError(f"--nproc {nproc} inside a launched rank", "torchrun or Slurm starts the ranks: drop --nproc")
    world = ranks.world_size if ranks else nproc or 1
    try:
        resolved, tokenizer = prepare(config, world)
    except MccError as error:
        if ranks is not None and ranks.rank > 0:
            raise SystemExit(error.exit_code) from None  # rank 0 finds and prints the same
        raise
    if resolved.run.save and (ranks is None or ranks.rank == 0):
        provenance.write(resolved.run.save, plain(resolved), {"seed": resolved.run.seed})
    if not resolved.run.save and reporter and (ranks is None or ranks.rank == 0):
        reporter().warn("without --save nothing of the run is kept")
    order = Order(config=resolved, tokenizer=tokenizer, reporter=reporter)
    if world == 1 and ranks is None:
        _alone(order)
    elif ranks is None:
        _launch(order, world)
    else:
        work(order)
    return resolved


def _alone(order: Order) -> None:
    """One rank in this process: no launcher, no port."""
    with tempfile.TemporaryDirectory() as scratch:
        dist.init_process_group("gloo", init_method=f"file://{scratch}/rendezvous", rank=0, world_size=1)
        try:
            train(order.config, order.tokenizer, order.reporter() if order.reporter else SILENT)
        finally:
            dist.destroy_process_group()


def _launch(order: Order, nproc: int) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if "GLOO_SOCKET_IFNAME" not in os.environ and Path("/sys/class/net/lo").exists():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    for name in [n for n in logging.root.manager.loggerDict if n.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what ended the run is said once, below
    with tempfile.TemporaryDirectory(prefix="mcc-train-") as scratch:
        written = Path(scratch) / "order.json"
        order = dataclasses.replace(order, failures=Path(scratch) / "failures")
        order.write(written)
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
        )
        try:
            elastic_launch(settings, sys.executable)("-m", "mcc.train.worker", str(written))
        except ChildFailedError as error:
            assert order.failures is not None
            raise _first_failure(error, order.failures, order.config) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            name = signal.Signals(error.sigval).name
            hint = "continue with --resume" if order.config.run.save else None
            raise MccError(f"stopped by {name}", hint) from None


def _first_failure(error: Any, folder: Path, config: TrainConfig) -> MccError:
    """The rank that failed first, not those that only saw it vanish."""
    accounts = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("rank_*.json")]
    causes = sorted((a for a in accounts if not a["lost_peer"]), key=lambda a: a["time"])
    killed = [f for f in error.failures.values() if f.exitcode < 0 and -f.exitcode != signal.SIGTERM]
    if causes and not killed:
        first = causes[0]
        kept = _keep(first, config)
        kind = UsageError if first["exit_code"] == UsageError.exit_code else MccError
        where = "" if kept is None else f"traceback in {kept}"
        return kind(f"rank {first['rank']} ({_place(first['rank'], config)}): {first['what']}", first["hint"] or where)
    rank, failure = (killed[0].local_rank, killed[0]) if killed else error.get_first_failure()
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
