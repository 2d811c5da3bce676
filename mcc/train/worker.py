"""One rank: joins the process group, trains, and leaves a readable account when it fails.

python -m mcc.train.worker ORDER.json      as the launcher starts each rank
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from mcc.core.config import build, plain
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.locks import exclusive
from mcc.core.ranks import Ranks, from_environment, restart_count, restarts_elsewhere, set_restart_count
from mcc.core.signals import end_with_parent
from mcc.train.attempt import agree
from mcc.train.config import TrainConfig
from mcc.train.device import backend, choose, own_devices
from mcc.train.faults import Account, accounts, place
from mcc.train.guard import Guard
from mcc.train.loop import train
from mcc.train.prepare import refuse_other_run
from mcc.train.stop import Stop

# A rank that only saw its peer vanish waits this long, so that the launcher finds the peer first and names it.
_MOURNING_S = 5.0
# So long a rank that is asked to stop goes on waiting for the others to join: one of them may have died.
_JOINING_S = 15.0
STOPPED = "stopped"  # the step at which a signal ended the run, in the folder of failures


@dataclass(frozen=True, kw_only=True)
class Order:
    """What every rank of a run is told.

    Args:
        config: as `prepare` gave it.
        tokenizer: JSON, kept with every checkpoint.
        reporter: makes rank 0's reporter: a module-level function, since its name crosses processes.
        failures: folder for `N/rank_K.json`, written when rank K fails after N restarts, and for `STOPPED`.
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
    """Run this rank, from torchrun's or Slurm's environment variables.

    Raises:
        MccError: this rank failed; names it, and where a launcher of others started it nobody else will.
        SystemExit: another rank failed, and tells why itself.
    """
    ranks = from_environment() or Ranks()
    folder = order.failures / str(restart_count()) if order.failures else None

    def report(account: Account) -> None:
        if folder is not None:
            account.write(folder)
        else:  # the thread that watches knows, and no exception of the main thread will
            print(f"error: {_named(account, order)}", file=sys.stderr, flush=True)

    safety = order.config.safety
    guard = Guard(ranks, safety.heartbeat_timeout, 60 * safety.distributed_timeout_minutes, report, folder is not None)
    with Stop(enabled=bool(order.config.run.save)) as stop:
        try:
            with stop.ends_within(_JOINING_S):
                device = join(ranks, order.config)
                guard.start()
            reporter = order.reporter() if order.reporter and ranks.rank == 0 else SILENT
            if restart_count():
                reporter.warn(f"started again after a failure: {_reason(order)}")
            with only_run(order.config) if ranks.rank == 0 else nullcontext():
                step = train(order.config, order.tokenizer, reporter, device, stop)
            if stop.agreed_at is not None and order.failures and ranks.rank == 0:
                order.failures.mkdir(parents=True, exist_ok=True)
                (order.failures / STOPPED).write_text(str(step), encoding="utf-8")
            guard.stop(done=True)
            dist.barrier()
        except BaseException as error:
            _fail(error, Account.of(ranks.rank, error), guard, folder, order, stop)
        finally:
            guard.stop(done=False)
            if dist.is_initialized():
                dist.destroy_process_group()


def _fail(
    error: BaseException, account: Account, guard: Guard, folder: Path | None, order: Order, stop: Stop
) -> NoReturn:
    """Leave this rank's account, tell the others, and find who is to blame."""
    guard.tell(account)
    if folder is not None:
        account.write(folder)
        if not account.cause:
            _await(guard, stop)  # so that the launcher finds the cause first
        raise error
    if account.cause:
        if not account.known and order.config.run.save:
            keep_traceback(account, Path(order.config.run.save))
        raise MccError(_named(account, order), account.hint) from error
    if _await(guard, stop) is None and stop.asked is None:
        raise MccError(f"{_named(account, order)}: another rank is gone", "see the messages above") from error
    raise SystemExit(1) from error


def _await(guard: Guard, stop: Stop) -> tuple[int, str] | None:
    """What another rank tells of its failure; not waited for when the launcher has seen one already."""
    until = time.monotonic() + _MOURNING_S
    told = guard.told()
    while told is None and stop.asked is None and time.monotonic() < until:
        time.sleep(0.1)
        told = guard.told()
    return told


def _named(account: Account, order: Order) -> str:
    return f"rank {account.rank} ({place(account.rank, order.config.parallel)}): {account.what}"


def _reason(order: Order) -> str:
    """Why the ranks before these ended, as far as somebody left word."""
    before = order.failures / str(restart_count() - 1) if order.failures else None
    found = accounts(before) if before else []
    return _named(found[0], order) if found else "a rank died"


def keep_traceback(account: Account, run: Path) -> Path | None:
    """Keep, in the run's folder, where our own bug struck; None where the disk has no room for it."""
    path = run / f"rank_{account.rank}.traceback"
    try:
        path.write_text(account.trace, encoding="utf-8")
    except OSError:
        return None
    return path


def only_run(config: TrainConfig) -> AbstractContextManager[None]:
    """Within the block no other run writes to this one's folder.

    Raises:
        MccError: one does already.
    """
    if not config.run.save:
        return nullcontext()
    hint = "wait until it has ended, or choose another --save"
    return exclusive(Path(config.run.save), f"to {config.run.save}", "another run", hint)


def join(ranks: Ranks, config: TrainConfig) -> torch.device:
    """Join the process group, with a fair share of the cores; the device to compute on."""
    if "OMP_NUM_THREADS" not in os.environ:
        share = (os.cpu_count() or 1) // ranks.local_world_size
        torch.set_num_threads(max(1, min(share, torch.get_num_threads())))  # torch has seen what Slurm lends it
    if "MASTER_ADDR" not in os.environ and int(os.environ.get("SLURM_NNODES", "1")) > 1:
        raise UsageError("Slurm started ranks on several nodes, but MASTER_ADDR is not set", "set it to the first node")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    # The guard gives up first, and knows for whom this rank waited.
    timeout = timedelta(minutes=config.safety.distributed_timeout_minutes + 1)
    store, rank, world = next(iter(dist.rendezvous("env://", ranks.rank, ranks.world_size, timeout=timeout)))
    set_restart_count(agree(store, rank, world, timeout, restart_count()))
    if restarts_elsewhere():
        refuse_other_run(config)  # what `prepare` could not know
    # After a restart the launcher's store still has the addresses of the ranks before.
    store = dist.PrefixStore(f"mcc/ranks/{restart_count()}", store)
    device = choose(config.run.device, ranks.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    own = own_devices(device, rank, world, store)
    dist.init_process_group(backend(device, own), store=store, rank=rank, world_size=world, timeout=timeout)
    return device


def main() -> None:
    """A rank that the launcher started: silent, its failure is in its account, and it ends when the launcher does."""
    end_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a rank at once, wherever it is; the launcher tells
    try:
        work(Order.read(Path(sys.argv[1])))
    except MccError as error:
        sys.exit(error.exit_code)
    except Exception:
        sys.exit(1)


if __name__ == "__main__":
    main()
