"""Starts the ranks of an evaluation on this machine, and ends with the first of them that fails.

python -m mcc.eval.launch FOLDER RANK      as each rank is started
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mcc.ckpt.source import Layout
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.ranks import from_environment
from mcc.eval.place import RENDEZVOUS

_ORDER, _RESULT = "order", "result"
_POLL_S = 0.05
# So long the launcher waits for the account of the rank that is to blame when one has ended.
_MOURNING_S = 3.0
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


@dataclass(frozen=True, kw_only=True)
class _Account:
    """Why a rank failed; `cause` is False where it only lost another, `trace` is empty for what a user can mend."""

    what: str
    hint: str | None
    exit_code: int
    cause: bool
    trace: str
    time: float


def on_ranks(
    function: Callable[..., Any],
    *,
    nproc: int | None = None,
    layout: Layout | None = None,
    reporter: Callable[[], Reporter] | None = None,
    **arguments: Any,
) -> Any:
    """`function(layout=, reporter=, **arguments)` on several ranks; what rank 0 returns.

    Args:
        function: of a module; collective, as `mcc.eval.zero_shot.zero_shot`.
        nproc: ranks to start here [as many as the layout needs; where torchrun or Slurm started this one, none].
        layout: how the model is cut.
        reporter: makes rank 0's reporter; of a module, too.
        arguments: can be pickled.

    Raises:
        UsageError: ranks are asked for within a rank.
        MccError: a rank failed; names it and why, with its traceback on stderr where it is our bug.
    """
    layout = layout or Layout()
    ranks = from_environment()
    if ranks is not None and nproc is not None:
        raise UsageError(f"--nproc {nproc} inside a launched rank", "torchrun or Slurm starts the ranks: drop --nproc")
    world = nproc or layout.tp * layout.pp
    if ranks is not None or world == 1:
        leads = ranks is None or ranks.rank == 0
        return function(layout=layout, reporter=reporter() if reporter and leads else SILENT, **arguments)
    if world % (layout.tp * layout.pp):
        need = layout.tp * layout.pp
        raise UsageError(
            f"--nproc {world} is no multiple of tp x pp = {layout.tp} x {layout.pp} = {need}", f"--nproc {need}"
        )
    with tempfile.TemporaryDirectory(prefix="mcc-eval-") as scratch:
        folder = Path(scratch)
        (folder / _ORDER).write_bytes(pickle.dumps((function, reporter, {"layout": layout, **arguments})))
        _watch([_start(folder, rank, world) for rank in range(world)], folder, layout)
        return pickle.loads((folder / _RESULT).read_bytes())


def _start(folder: Path, rank: int, world: int) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // world))
    env = {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        RENDEZVOUS: f"file://{folder}/rendezvous",
    }
    if "GLOO_SOCKET_IFNAME" not in env and Path("/sys/class/net/lo").exists():
        env["GLOO_SOCKET_IFNAME"] = "lo"
    return subprocess.Popen([sys.executable, "-m", __spec__.name, str(folder), str(rank)], env=env)


def _watch(ranks: Sequence[subprocess.Popen[bytes]], folder: Path, layout: Layout) -> None:
    """Wait for all; the first that fails ends the others."""
    try:
        while any(rank.poll() is None for rank in ranks):
            if any(rank.returncode for rank in ranks):
                break
            time.sleep(_POLL_S)
        if any(rank.returncode for rank in ranks):
            raise _failure(ranks, folder, layout)
    finally:
        for rank in ranks:
            rank.kill()
        for rank in ranks:
            rank.wait()


def _failure(ranks: Sequence[subprocess.Popen[bytes]], folder: Path, layout: Layout) -> MccError:
    until = time.monotonic() + _MOURNING_S
    while True:
        waits = any(rank.poll() is None for rank in ranks) and time.monotonic() < until
        killed = [index for index, rank in enumerate(ranks) if (rank.returncode or 0) < 0]
        if killed:
            name = signal.Signals(-ranks[killed[0]].returncode).name
            return MccError(f"rank {killed[0]} ({_where(killed[0], layout)}) died: {name}", "is there enough memory?")
        found = _accounts(folder)
        if not waits or any(account.cause for account in found.values()):
            break
        time.sleep(_POLL_S)
    if not found:
        index = next(i for i, rank in enumerate(ranks) if rank.returncode)
        return MccError(f"rank {index} ({_where(index, layout)}) died: exit code {ranks[index].returncode}")
    index, first = min(found.items(), key=lambda item: (not item[1].cause, item[1].time))
    if first.trace:
        print(first.trace, file=sys.stderr, end="")
    kind = UsageError if first.exit_code == UsageError.exit_code else MccError
    # What was asked for makes no sense on any rank.
    blamed = (
        "" if kind is UsageError or (index == 0 and not first.trace) else f"rank {index} ({_where(index, layout)}): "
    )
    return kind(blamed + first.what, first.hint)


def _accounts(folder: Path) -> dict[int, _Account]:
    found = {}
    for file in folder.glob("failed_*.json"):
        with suppress(OSError, ValueError, TypeError):  # written by half
            found[int(file.stem.partition("_")[2])] = _Account(**json.loads(file.read_text(encoding="utf-8")))
    return found


def _where(rank: int, layout: Layout) -> str:
    rest, tp = divmod(rank, layout.tp)
    dp, pp = divmod(rest, layout.pp)
    return f"dp {dp}, pp {pp}, tp {tp}"


def _rank(folder: Path, rank: int) -> None:
    """One rank: does what the order says, and leaves an account when it fails."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    from mcc.ckpt.together import lost_peer, reason

    try:
        function, reporter, arguments = pickle.loads((folder / _ORDER).read_bytes())
        made = reporter() if reporter and rank == 0 else SILENT
        result = function(reporter=made, **arguments)
        if rank == 0:
            (folder / _RESULT).write_bytes(pickle.dumps(result))
    except Exception as error:
        user = error if isinstance(error, MccError) else None
        account = _Account(
            what=reason(error),
            hint=user.hint if user else None,
            exit_code=user.exit_code if user else 1,
            cause=not lost_peer(error),
            trace="" if user else "".join(traceback.format_exception(error)),
            time=time.time(),
        )
        partial = folder / f".failed_{rank}"
        partial.write_text(json.dumps(asdict(account)), encoding="utf-8")
        partial.replace(folder / f"failed_{rank}.json")
        os._exit(account.exit_code)  # a process group that lost a peer may wait for it at the end
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    # As a module of the package, so that what is pickled here has its own name.
    import_module("mcc.eval.launch")._rank(Path(sys.argv[1]), int(sys.argv[2]))
