"""Starts a training run: as a rank under torchrun or Slurm, or with its own ranks through torch's elastic launcher."""

from __future__ import annotations

import dataclasses
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
from mcc.train.device import backend, choose
from mcc.train.faults import accounts, place
from mcc.train.loop import train
from mcc.train.prepare import prepare, without_effect
from mcc.train.stop import Stop
from mcc.train.tensorboard import require_tensorboard
from mcc.train.worker import STOPPED, Order, keep_traceback, only_run, work

# After a signal the ranks have so long to finish their step and save.
_SAVING_S = 600


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
    _check(resolved, ranks is None)
    if resolved.run.save and (ranks is None or ranks.rank == 0):
        with only_run(resolved):  # rank 0 asks again, and stays in there
            _record(resolved)
    if not resolved.run.save and reporter and (ranks is None or ranks.rank == 0):
        reporter().warn("without --save nothing of the run is kept")
    if reporter and (ranks is None or ranks.rank == 0):
        for what in without_effect(resolved):
            reporter().warn(what)
    order = Order(config=resolved, tokenizer=tokenizer, reporter=reporter)
    if world == 1 and ranks is None and not resolved.safety.max_restarts:
        _alone(order)
    elif ranks is None:
        _launch(order, world)
    else:
        work(order)
    return resolved


def _record(config: TrainConfig) -> None:
    assert config.run.save
    try:
        provenance.write(config.run.save, plain(config), {"seed": config.run.seed})
    except OSError as error:
        raise MccError(f"cannot write to {config.run.save}: {error.strerror}", "is the disk full?") from error


def _alone(order: Order) -> None:
    """One rank in this process: no launcher, no port."""
    with tempfile.TemporaryDirectory() as scratch:
        device = choose(order.config.run.device, 0)
        method = f"file://{scratch}/rendezvous"
        dist.init_process_group(backend(device, own=True), init_method=method, rank=0, world_size=1)
        try:
            with Stop(enabled=bool(order.config.run.save)) as stop, only_run(order.config):
                reporter = order.reporter() if order.reporter else SILENT
                train(order.config, order.tokenizer, reporter, device, stop)
        finally:
            dist.destroy_process_group()


def _check(config: TrainConfig, launches: bool) -> None:
    """Refuse what would fail later.

    Raises:
        UsageError: TensorBoard is missing, or restarts are wanted where there is nothing to start from or nobody to.
    """
    if config.observe.tensorboard_dir:
        require_tensorboard()
    if config.safety.max_restarts and not config.run.save:
        raise UsageError("--max-restarts needs --save: the folder of the checkpoints to start again from")
    if config.safety.max_restarts and not launches:
        raise UsageError(
            "--max-restarts: these ranks were started by another launcher", "torchrun --max-restarts starts them again"
        )


def _launch(order: Order, nproc: int) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if "GLOO_SOCKET_IFNAME" not in os.environ and Path("/sys/class/net/lo").exists():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    for name in [n for n in logging.root.manager.loggerDict if n.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what ended the run is said once, below
    # A signal that Slurm sends to the launcher means the ranks, as SIGTERM does.
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="mcc-train-") as scratch:
        written, failures = Path(scratch) / "order.json", Path(scratch) / "failures"
        order = dataclasses.replace(order, failures=failures)
        order.write(written)
        failures.mkdir()
        settings: dict[str, Any] = {
            "min_nodes": 1,
            "max_nodes": 1,
            "nproc_per_node": nproc,
            "run_id": Path(scratch).name,
            "rdzv_backend": "c10d",
            "rdzv_endpoint": "localhost:0",
            "local_addr": "127.0.0.1",
            "max_restarts": order.config.safety.max_restarts,
            "monitor_interval": 0.1,
            "shutdown_timeout": _SAVING_S,
        }
        known = {field.name for field in dataclasses.fields(LaunchConfig)}  # the last came with torch 2.12
        launch = elastic_launch(LaunchConfig(**{k: v for k, v in settings.items() if k in known}), sys.executable)
        try:
            launch("-m", "mcc.train.worker", str(written))
        except ChildFailedError as error:
            raise _first_failure(error, failures, order.config) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            if (failures / STOPPED).exists():
                return  # the ranks saved, and ended well
            name = signal.Signals(error.sigval).name
            hint = "continue with --resume" if order.config.run.save else None
            raise MccError(f"stopped by {name}", hint) from None


def _first_failure(error: Any, failures: Path, config: TrainConfig) -> MccError:
    """The rank that failed first, not those that only saw it vanish."""
    found = accounts(max(failures.iterdir(), key=lambda folder: int(folder.name), default=failures))
    killed = [f for f in error.failures.values() if f.exitcode < 0 and -f.exitcode != signal.SIGTERM]
    killed.sort(key=lambda failure: failure.timestamp)
    # A rank that was told of and then killed was stuck; a time of death is cut to whole seconds.
    if found and not (killed and killed[0].timestamp < int(found[0].time)):
        first = found[0]
        where = None
        if config.run.save and not first.known:
            kept = keep_traceback(first, Path(config.run.save))
            where = f"traceback in {kept}" if kept else None
        kind = UsageError if first.exit_code == UsageError.exit_code else MccError
        return kind(f"rank {first.rank} ({place(first.rank, config.parallel)}): {first.what}", first.hint or where)
    rank, failure = (killed[0].local_rank, killed[0]) if killed else error.get_first_failure()
    name = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
    hint = "continue with --resume" if config.run.save else None
    return MccError(f"rank {rank} ({place(rank, config.parallel)}) died: {name}", hint)
