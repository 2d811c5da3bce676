"""`--verify-codecs`: coded messages carry what they should decode to, and coded sums are compared over their ranks.

A header of 24 bytes stands before a payload from stage to stage: its length, its hash, and the hash of the tensor that
the sender decodes it to. After a sum all ranks compare hashes of what they got; after a reduce-scatter each rank those
of the terms that it decoded with those of their senders. This traffic is not counted: `wire_bytes` are those of a run
without the check.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mcc.core.errors import MccError
from mcc.train.compress.codec import Context

if TYPE_CHECKING:
    from mcc.train.compress.collective import Collective

HEADER_BYTES = 24
_HINT = "codecs are not to be trusted here: please report the codec, its options and the layout"


def header(message: Tensor, seen: Tensor) -> Tensor:
    """uint8[24]: what stands before a payload, of what it decodes to."""
    values = [message.numel(), _hash(message), _hash(seen)]
    return torch.tensor(values, dtype=torch.int64, device=message.device).view(torch.uint8)


def check(head: Tensor, message: Tensor, seen: Tensor, where: str) -> None:
    """Compare what came with its header.

    Args:
        where: the site, the boundary, the time and the ranks.

    Raises:
        MccError: the payload is not what was sent, or decodes to something else than at the sender.
    """
    length, sent, wanted = head.clone().view(torch.int64).tolist()
    if length != message.numel():
        raise MccError(f"--verify-codecs: {where}: {length} bytes were sent, {message.numel()} expected", _HINT)
    if sent != _hash(message):
        raise MccError(f"--verify-codecs: {where}: the payload is not what was sent", "is the network sound?")
    if wanted != _hash(seen):
        raise MccError(f"--verify-codecs: {where}: the payload decodes to other bits than at its sender", _HINT)


def check_alike(group: Collective, tensors: Sequence[Tensor], context: Context) -> None:
    """Compare what all ranks of a group got of a coded sum. Collective.

    Raises:
        MccError: not the same bits; names the ranks.
    """
    mine = _hashes([_hash(x) for x in tensors], tensors[0].device)
    with group.wire.paused():
        found = [theirs.view(torch.int64).tolist() for theirs in group.gather(mine)]
    odd = [rank for rank, hashes in enumerate(found) if hashes != found[0]]
    if odd:
        raise _other(group, context, f"ranks {odd} of the group got other bits than rank 0")


def check_pieces(group: Collective, sent: Sequence[Tensor], received: Sequence[Tensor], context: Context) -> None:
    """Compare terms of a coded reduce-scatter, as decoded here, with what they are to their senders. Collective.

    Raises:
        MccError: not the same bits; names the ranks.
    """
    device = sent[0].device
    with group.wire.paused():
        theirs = group.exchange([_hashes([_hash(x)], device) for x in sent])
    wanted = [int(hashes.clone().view(torch.int64)) for hashes in theirs]
    odd = [rank for rank, x in enumerate(received) if _hash(x) != wanted[rank]]
    if odd:
        raise _other(group, context, f"what ranks {odd} of the group sent decodes to other bits on rank {group.rank}")


def _other(group: Collective, context: Context, what: str) -> MccError:
    return MccError(f"--verify-codecs: {group.site}, step {context.step + 1}: {what}", _HINT)


def _hashes(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64, device=device).view(torch.uint8)


def _hash(x: Tensor) -> int:
    """63 bits of a tensor's bytes."""
    data = x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return int.from_bytes(hashlib.blake2b(memoryview(data), digest_size=8).digest(), "little") >> 1
