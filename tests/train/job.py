"""A run of several ranks as a launcher starts them, forked from a warm server: what happens when one of them fails."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from mcc.core.errors import MccError
from mcc.data.indexed import IndexedWriter
from mcc.train import metrics
from mcc.train.config import (
    DataConfig,
    ObserveConfig,
    OptimConfig,
    ParallelConfig,
    RunConfig,
    SafetyConfig,
    TrainConfig,
)
from mcc.train.faults import Account, accounts
from mcc.train.worker import Order, main, work
from tests.ranks import _context
from tests.train.toy import MODEL

LIMIT_S = 30  # a job whose rank fails ends within this


def tokens(folder: Path) -> Path:
    """The prefix of token files of 40 random documents."""
    prefix = folder / "tokens"
    generator = np.random.default_rng(0)
    with IndexedWriter(prefix, np.dtype("<u2")) as writer:
        for _ in range(40):
            writer.add(generator.integers(0, MODEL.vocab_size, 100))
    return prefix


def job_config(
    data: Path,
    save: Path | None,
    iters: int = 8,
    parallel: dict[str, int] | None = None,
    compress: tuple[str, ...] = (),
    **run: Any,
) -> TrainConfig:
    """A tiny resolved run; fields of `SafetyConfig` and `ObserveConfig` may be among `run`."""
    sections: dict[str, dict[str, Any]] = {"safety": {}, "observe": {}, "run": {}}
    for name, value in run.items():
        owner = next((s for s, c in (("safety", SafetyConfig), ("observe", ObserveConfig)) if name in _names(c)), "run")
        sections[owner][name] = value
    batch = {"micro_batch_size": 1, "global_batch_size": 4, "eval_iters": 0, "train_iters": iters}
    return TrainConfig(
        model=replace(MODEL, num_layers=2),
        data=DataConfig(data_path=str(data), split="1,0,0"),
        parallel=ParallelConfig(**{"tp": 1, "pp": 1, "dp": 1, **(parallel or {})}),  # type: ignore[arg-type]
        optim=OptimConfig(lr=3e-3),
        run=RunConfig(**{**batch, "save": str(save) if save else None, **sections["run"]}),
        safety=SafetyConfig(**sections["safety"]),
        observe=ObserveConfig(**sections["observe"]),
        compress=compress,
    )


def _names(config: type) -> set[str]:
    return set(config.__dataclass_fields__)  # type: ignore[attr-defined]


@dataclass
class Job:
    """Ranks that run."""

    config: TrainConfig
    folder: Path
    processes: list[Any]
    attempt: int = 0

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to one rank."""
        os.kill(self.processes[rank].pid, number)

    def reach(self, step: int) -> None:
        """Wait until the run has logged `step`."""
        assert self.config.run.save
        until = time.monotonic() + 60
        while time.monotonic() < until and all(p.is_alive() for p in self.processes):
            if any(line["step"] >= step for line in metrics.read(Path(self.config.run.save))):
                return
            time.sleep(0.01)
        pytest.fail(f"the run did not reach step {step}: {[p.exitcode for p in self.processes]}, {self.causes()}")

    def end(self, limit_s: float = LIMIT_S) -> list[int]:
        """The ranks' exit codes; fails when one is still there after the limit."""
        until = time.monotonic() + limit_s
        for rank, process in enumerate(self.processes):
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                pytest.fail(f"rank {rank} still runs after {limit_s} s")
        return [process.exitcode for process in self.processes]

    def causes(self) -> list[Account]:
        """The accounts of the ranks that were to blame."""
        return accounts(self.folder / "failures" / str(self.attempt))


@contextmanager
def job(
    config: TrainConfig,
    world: int,
    folder: Path,
    harm: Callable[[int], None] | None = None,
    attempt: int = 0,
    launcher: bool = True,
) -> Iterator[Job]:
    """Start the ranks; what is left of them is killed at the end.

    Args:
        harm: module-level function, called in each rank with its number before it works.
        attempt: restarts before this one, as torch's elastic launcher counts them.
        launcher: ours, which reads accounts; under another a rank tells on stderr, here `FOLDER/rank_K.err`.
    """
    order = folder / "order.json"
    Order(config=config, failures=folder / "failures" if launcher else None).write(order)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    processes = []
    for rank in range(world):
        environment = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": store.port,
            "TORCHELASTIC_USE_AGENT_STORE": True,
            "TORCHELASTIC_RESTART_COUNT": attempt,
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": 1,
        }
        process = _context.Process(target=_rank, args=(order, environment, harm), daemon=True)
        process.start()
        processes.append(process)
    try:
        yield Job(config, folder, processes, attempt)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _rank(order: Path, environment: dict[str, Any], harm: Callable[[int], None] | None) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update({name: str(value) for name, value in environment.items()})
    if harm is not None:
        harm(int(environment["RANK"]))
    sys.argv = ["worker", str(order)]
    if Order.read(order).failures:
        main()
        return
    error = os.open(order.with_name(f"rank_{environment['RANK']}.err"), os.O_WRONLY | os.O_CREAT)
    os.dup2(error, sys.stderr.fileno())
    try:
        work(Order.read(order))
    except MccError as failure:  # as the command line does
        print(f"error: {failure.what}", file=sys.stderr)
        sys.exit(failure.exit_code)
