"""`--verify-codecs`: coded messages carry what they should decode to, and coded sums are compared over their ranks.

A header of 24 bytes stands before a payload from stage to stage: its length, its hash, and the hash of the tensor that
the sender decodes it to. After a sum all ranks compare hashes of what they got, and after ring attention of what they
decoded of all ranks' keys and values; after a reduce-scatter each rank those of the terms that it decoded with those of
their senders. This traffic is not counted: `wire_bytes` are those of a run
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
    values = [message.numel(), hash_of(message), hash_of(seen)]
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
    if sent != hash_of(message):
        raise MccError(f"--verify-codecs: {where}: the payload is not what was sent", "is the network sound?")
    if wanted != hash_of(seen):
        raise MccError(f"--verify-codecs: {where}: the payload decodes to other bits than at its sender", _HINT)


def check_alike(group: Collective, tensors: Sequence[Tensor], context: Context) -> None:
    """Compare what all ranks of a group got of a coded sum. Collective.

    Raises:
        MccError: not the same bits; names the ranks.
    """
    check_hashes(group, [hash_of(x) for x in tensors], tensors[0].device, context)


def check_hashes(group: Collective, hashes: Sequence[int], device: torch.device, context: Context) -> None:
    """`check_alike` of tensors that are known by their hashes. Collective.

    Raises:
        MccError: not the same bits; names the ranks.
    """
    mine = _packed(hashes, device)
    with group.wire.paused():
        found = [theirs.view(torch.int64).tolist() for theirs in group.gather(mine)]
    odd = [rank for rank, theirs in enumerate(found) if theirs != found[0]]
    if odd:
        raise _other(group, context, f"ranks {odd} of the group got other bits than rank 0")


def check_pieces(group: Collective, sent: Sequence[Tensor], received: Sequence[Tensor], context: Context) -> None:
    """Compare terms of a coded reduce-scatter, as decoded here, with what they are to their senders. Collective.

    Raises:
        MccError: not the same bits; names the ranks.
    """
    device = sent[0].device
    with group.wire.paused():
        theirs = group.exchange([_packed([hash_of(x)], device) for x in sent])
    wanted = [int(hashes.clone().view(torch.int64)) for hashes in theirs]
    odd = [rank for rank, x in enumerate(received) if hash_of(x) != wanted[rank]]
    if odd:
        raise _other(group, context, f"what ranks {odd} of the group sent decodes to other bits on rank {group.rank}")


def _other(group: Collective, context: Context, what: str) -> MccError:
    return MccError(f"--verify-codecs: {group.site}, step {context.step + 1}: {what}", _HINT)


def _packed(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64, device=device).view(torch.uint8)


def hash_of(*tensors: Tensor) -> int:
    """63 bits of tensors' bytes."""
    found = hashlib.blake2b(digest_size=8)
    for x in tensors:
        found.update(memoryview(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
    return int.from_bytes(found.digest(), "little") >> 1
