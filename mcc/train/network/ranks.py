"""A training run whose ranks live in the namespaces of a `Network`, watched by the process that started them.

Ranks are forked from a server that has imported torch once. They end with this process, and with the server, however
those end: no rank outlives them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from mcc.core.errors import MccError
from mcc.core.signals import end_with_parent
from mcc.train import metrics
from mcc.train.config import TrainConfig
from mcc.train.faults import accounts, place
from mcc.train.network.links import LINK, Network
from mcc.train.network.namespaces import enter, show_file
from mcc.train.worker import Order, work

_PORT = 29500  # free: every rank's network is its own
_ACCOUNTS_S = 10.0  # so long the other ranks may take to say what they saw of one that failed
_LOOK_S = 0.01

_context = multiprocessing.get_context("forkserver")
# No tensor work in the server: threads don't survive a fork.
_context.set_forkserver_preload(["torch.distributed.pipelining", "torch.distributed.checkpoint", "mcc.train.worker"])


class Training:
    """A run under way; what is left of it is killed at the end of the block.

    Args:
        config: resolved, with a folder to save to.
        tokenizer: JSON, kept with the checkpoint.
        network: as many ranks as the run has.
        folder: for files of its own.
    """

    def __init__(self, config: TrainConfig, tokenizer: str | None, network: Network, folder: Path) -> None:
        assert config.run.save
        self.config, self.failures = config, folder / "failures"
        self.run = Path(config.run.save)
        self._read = self._steps = 0
        order = folder / "order.json"
        folder.mkdir(parents=True, exist_ok=True)
        Order(config=config, tokenizer=tokenizer, failures=self.failures).write(order)
        world = len(network.ranks)
        # torch asks for the names of addresses, and no name server can be reached from there.
        hosts = folder / "hosts"
        forms = ("", "::ffff:")  # of IPv4, and as the store's IPv6 sockets write it
        names = [f"{form}{network.address(rank)} rank{rank}" for rank in range(world) for form in forms]
        hosts.write_text("\n".join(["127.0.0.1 localhost", *names, ""]), encoding="utf-8")
        self.processes: list[Any] = []
        for rank, namespace in enumerate(network.ranks):
            environment = {
                "RANK": rank,
                "WORLD_SIZE": world,
                "LOCAL_RANK": rank,
                "LOCAL_WORLD_SIZE": world,  # they share the cores of this machine
                "MASTER_ADDR": network.address(0),
                "MASTER_PORT": _PORT,
                "GLOO_SOCKET_IFNAME": LINK,
            }
            process = _context.Process(target=_rank, args=(order, hosts, namespace.path, environment), daemon=True)
            process.start()
            self.processes.append(process)

    def __enter__(self) -> Training:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def lines(self) -> list[dict[str, Any]]:
        """The run's metrics so far."""
        return metrics.read(self.run)

    def steps(self) -> int:
        """Steps told of so far. Quick: who asks often takes nothing from the ranks."""
        try:
            with (self.run / metrics.NAME).open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return 0
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        self._steps += sum("loss" in json.loads(line) for line in whole.splitlines())
        return self._steps

    @property
    def ended(self) -> bool:
        """Whether all ranks have ended well.

        Raises:
            MccError: a rank failed; names it and why.
        """
        codes = [process.exitcode for process in self.processes]
        if any(codes):  # neither running (None) nor well (0)
            raise self._failure()
        return all(code == 0 for code in codes)

    def look(self) -> None:
        """Wait a moment."""
        time.sleep(_LOOK_S)

    def _failure(self) -> MccError:
        until = time.monotonic() + _ACCOUNTS_S
        while time.monotonic() < until and any(process.is_alive() for process in self.processes):
            time.sleep(_LOOK_S)
        found = accounts(self.failures / "0")
        if found:
            first = found[0]
            return MccError(f"rank {first.rank} ({place(first.rank, self.config.parallel)}): {first.what}", first.hint)
        rank, code = next((rank, p.exitcode) for rank, p in enumerate(self.processes) if p.exitcode)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return MccError(f"rank {rank} ({place(rank, self.config.parallel)}) died: {how}")


def _rank(order: Path, hosts: Path, namespace: str, environment: dict[str, Any]) -> None:
    """One rank, in a process just forked."""
    parent = os.getppid()
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the server died before we could ask
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    enter(namespace)  # before any thread starts
    show_file(hosts, "/etc/hosts")
    threading.Thread(target=_die_with_owner, name="owner", daemon=True).start()
    os.environ.update({name: str(value) for name, value in environment.items()})
    try:
        work(Order.read(order))
    except MccError as error:
        sys.exit(error.exit_code)
    except Exception:
        sys.exit(1)


def _die_with_owner() -> None:
    """The server lives as long as a rank does; so a rank looks for itself whether who wanted it is still there."""
    owner = multiprocessing.parent_process()
    assert owner is not None
    owner.join()
    os.kill(os.getpid(), signal.SIGKILL)
