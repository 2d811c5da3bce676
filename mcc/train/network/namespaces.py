"""Network namespaces without names: each lives as long as somebody holds it, so nothing is left of one that ended.

`ip netns add` mounts a name, which outlives whoever made it. Here a namespace is an open file of this process, and of
the processes that were put into it; when they end, however they end, Linux takes it down with its links.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mcc.core.errors import MccError

Result = TypeVar("Result")

_CLONE_NEWNET, _CLONE_NEWNS = 0x40000000, 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_OWN = "/proc/thread-self/ns/net"
_NEEDS = "needs Linux, root (CAP_NET_ADMIN and CAP_SYS_ADMIN) and the programs ip and tc of iproute2"


@dataclass(frozen=True)
class Counters:
    """What passed an interface since it was made, Ethernet headers included."""

    sent_bytes: int
    sent_packets: int
    received_bytes: int
    received_packets: int


def require() -> None:
    """Refuse a machine on which there is no laying out networks.

    Raises:
        MccError: one line says what is missing.
    """
    if sys.platform != "linux":
        raise MccError(f"network namespaces: this is {sys.platform}", _NEEDS)
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        raise MccError(f"network namespaces: {' and '.join(missing)} not found", _NEEDS)
    if os.geteuid() != 0:
        raise MccError("network namespaces: this is not root", _NEEDS)
    try:
        Namespace().close()
    except OSError as error:
        raise MccError(f"network namespaces: {error.strerror}", _NEEDS) from None


class Namespace:
    """A new network without any link to the machine's. Only the thread that asks for something there enters it.

    Attributes:
        file: holds it open; other processes reach it as /proc/PID/fd/FILE.

    Raises:
        OSError: Linux refuses.
    """

    def __init__(self) -> None:
        def make() -> int:
            _checked(_libc().unshare(_CLONE_NEWNET))
            return os.open(_OWN, os.O_RDONLY)

        self.file: int | None = _aside(make)

    @property
    def path(self) -> str:
        """A path that leads there from every process of this user."""
        assert self.file is not None, "the namespace is closed"
        return f"/proc/{os.getpid()}/fd/{self.file}"

    def do(self, function: Callable[[], Result]) -> Result:
        """The result of `function`, called in a thread that is in this network, as are the processes it starts."""

        def there() -> Result:
            enter(self.path)
            return function()

        return _aside(there)

    def batch(self, program: str, lines: Sequence[str]) -> None:
        """Run `ip` or `tc` with these commands here.

        Raises:
            MccError: the program refuses one; says why.
        """
        words = [program, "-batch", "-"]
        done = self.do(lambda: subprocess.run(words, input="\n".join(lines) + "\n", capture_output=True, text=True))
        if done.returncode:
            why = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
            raise MccError(f"{program}: {why}", f"among: {'; '.join(lines)}")

    def counters(self, link: str) -> Counters:
        """What passed the interface `link`."""
        text = self.do(lambda: Path("/proc/thread-self/net/dev").read_text(encoding="ascii"))
        values = next(
            line.partition(":")[2].split() for line in text.splitlines() if line.strip().startswith(f"{link}:")
        )
        return Counters(int(values[8]), int(values[9]), int(values[0]), int(values[1]))

    def close(self) -> None:
        """Let go of it; processes in it keep it until they end."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


def enter(path: str) -> None:
    """Put the calling thread, and what it starts from now on, into the namespace at `path`."""
    file = os.open(path, os.O_RDONLY)
    try:
        _checked(_libc().setns(file, _CLONE_NEWNET))
    finally:
        os.close(file)


def show_file(source: Path, target: str) -> None:
    """Let this process, and what it starts, see `source` at `target`, a file; nobody else does.

    For a process of one thread.
    """
    libc = _libc()
    _checked(libc.unshare(_CLONE_NEWNS))
    # Or the others would see it, too.
    _checked(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    _checked(libc.mount(str(source).encode(), target.encode(), None, _MS_BIND, None))


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _aside(function: Callable[[], Result]) -> Result:
    """Call it in a thread of its own, which then ends: this one stays in the machine's network."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()
