"""Ranks' networks, each with one link to a switch, as machines have it; the links' rate can be changed at any time.

    rank 0 eth0 ---- port0 \
    rank 1 eth0 ---- port1 -- bridge, in a namespace of its own
    ...                    /

A link is a veth pair. Linux's token bucket (`tc qdisc ... tbf`) holds each of its directions to the rate: where the
rank sends, and where the switch sends to the rank. There is no delay of its own: what is called latency is how long a
packet may wait in the bucket's queue before it is dropped.
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from mcc.core.errors import UsageError
from mcc.train.network.namespaces import Counters, Namespace

LINK = "eth0"  # each rank's, in its own namespace
_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_MTU = 1500
_FRAME = _MTU + 14
# The bucket holds what the link carries in so long. More would let short messages pass unshaped.
_BURST_S = 0.001
_PROBE_S = 0.5
_PROBES = 3
_PROBE_CHUNK = 1 << 16


@dataclass(frozen=True)
class Rate:
    """A link's speed, as `tc` writes it: 100mbit."""

    name: str
    bits_per_s: float

    @staticmethod
    def parse(text: str) -> Rate:
        """
        >>> Rate.parse("2.5gbit").bits_per_s
        2500000000.0

        Raises:
            UsageError: not a number and a unit, or out of the range of what can be shaped.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(bit|kbit|mbit|gbit)", text.strip().lower())
        if found is None:
            raise UsageError(f"rate {text!r} is not a number with a unit", f"units: {', '.join(_UNITS)}; e.g. 100mbit")
        rate = float(found[1]) * _UNITS[found[2]]
        if not 1e5 <= rate <= 1e11:
            raise UsageError(f"rate {text} is not between 100kbit and 100gbit")
        return Rate(found[0], rate)

    @property
    def burst_bytes(self) -> int:
        """The bucket's size: a millisecond's worth, at least two full frames."""
        return max(round(self.bits_per_s / 8 * _BURST_S), 2 * _FRAME)


class Network:
    """The networks of `ranks` ranks, unshaped at first. Within the block they exist.

    Raises:
        MccError: `ip` or `tc` refuses.
    """

    def __init__(self, ranks: int) -> None:
        self.switch = Namespace()
        self.ranks = [Namespace() for _ in range(ranks)]
        self._shaped = False
        for namespace in (self.switch, *self.ranks):
            # Neighbour discovery would be traffic that nobody asked for.
            namespace.do(_without_ipv6)
        self.switch.batch("ip", ["link add bridge type bridge", "link set bridge up"])
        for rank, namespace in enumerate(self.ranks):
            port = f"port{rank}"
            pair = f"link add {port} mtu {_MTU} type veth peer name {LINK} mtu {_MTU} netns {namespace.path}"
            self.switch.batch("ip", [pair, f"link set {port} master bridge", f"link set {port} up"])
            address = f"address add {self.address(rank)}/16 dev {LINK}"
            namespace.batch("ip", ["link set lo up", address, f"link set {LINK} up"])

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        for namespace in (*self.ranks, self.switch):
            namespace.close()

    def address(self, rank: int) -> str:
        """A rank's address; it means something in these networks only."""
        return f"10.77.{rank // 250}.{rank % 250 + 1}"

    def shape(self, rate: Rate | None, latency_ms: float) -> None:
        """Hold every link, in both directions, to `rate`; None: as fast as the machine goes.

        Args:
            latency_ms: so long a packet may wait before it is dropped.
        """
        if rate is None:
            action = "qdisc del dev {} root" if self._shaped else None
        else:
            bucket = f"rate {rate.bits_per_s:.0f}bit burst {rate.burst_bytes} latency {latency_ms:g}ms"
            action = f"qdisc replace dev {{}} root tbf {bucket}"
        self._shaped = rate is not None
        if action is None:
            return
        self.switch.batch("tc", [action.format(f"port{rank}") for rank in range(len(self.ranks))])
        for namespace in self.ranks:
            namespace.batch("tc", [action.format(LINK)])

    def counters(self, rank: int) -> Counters:
        """What a rank's link has carried so far."""
        return self.ranks[rank].counters(LINK)

    def goodput(self) -> float:
        """Bits a second that one TCP connection carries from rank 1 to rank 0 now, its headers not counted."""
        # A connection that loses its first packets waits too long to be measured: another one then.
        return next((found for found in (self._goodput() for _ in range(_PROBES)) if found), 0.0)

    def _goodput(self) -> float:
        server = self.ranks[0].do(lambda: socket.create_server((self.address(0), 0)))
        with server:
            there = (self.address(0), server.getsockname()[1])
            sender = self.ranks[1].do(lambda: socket.create_connection(there, timeout=10))
            receiver, _ = server.accept()
        with sender, receiver:  # sockets stay in the network in which they were made
            return _throughput(sender, receiver)


def _throughput(sender: socket.socket, receiver: socket.socket) -> float:
    """Bits a second from one socket to the other, from the first byte sent to the last received.

    Never more than the link carries, even if this process does not come to read for a while.
    """
    sender.setblocking(False)
    receiver.setblocking(False)
    chunk, buffer = b"\0" * _PROBE_CHUNK, bytearray(_PROBE_CHUNK)
    began, received, last = time.perf_counter(), 0, 0.0
    while time.perf_counter() < began + _PROBE_S:
        with suppress(BlockingIOError):
            sender.send(chunk)
        with suppress(BlockingIOError):
            received += receiver.recv_into(buffer)
            last = time.perf_counter()
    return 8 * received / (last - began) if received else 0.0


def _without_ipv6() -> None:
    for name in ("all", "default"):
        with suppress(OSError):  # a kernel without IPv6, or whose settings cannot be written: a few packets more
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1", encoding="ascii")
