"""The choice of a device and of what carries its messages."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from mcc.core.errors import MccError, UsageError
from mcc.train.device import backend, choose, own_devices


def test_ranks_share_the_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose("auto", rank).index for rank in range(4)] == [0, 1, 0, 1]
    assert choose("cpu", 0).type == "cpu"
    assert backend(torch.device("cuda", 0), own=True) == "cpu:gloo,cuda:nccl"
    assert backend(torch.device("cuda", 0), own=False) == "gloo" == backend(torch.device("cpu"), own=True)


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto", 3) == torch.device("cpu")
    with pytest.raises(UsageError, match="torch sees no GPU"):
        choose("cuda", 0)


def told(uuids: list[str | None], monkeypatch: pytest.MonkeyPatch) -> bool:
    """What the last rank finds when rank N's device has `uuids[N]`, None for the CPU."""
    store = dist.HashStore()
    for rank, uuid in enumerate(uuids[:-1]):
        store.set(f"device/{rank}", uuid or "")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuids[-1]))
    device = torch.device("cuda", 0) if uuids[-1] else torch.device("cpu")
    return own_devices(device, len(uuids) - 1, len(uuids), store)


def test_gpus_are_told_apart_by_their_identifier(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(["a", "b", "c"], monkeypatch)  # each may be number 0 of its rank
    assert not told(["a", "b", "a"], monkeypatch)
    assert not told([None, None], monkeypatch)
    assert told(["a"], monkeypatch)


def test_ranks_without_a_gpu_among_others_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MccError, match="no GPU for rank 1, 2 of 4; the others have one"):
        told(["a", None, None, "b"], monkeypatch)
