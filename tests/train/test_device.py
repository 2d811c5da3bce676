"""The choice of a device and of what carries its messages."""

from __future__ import annotations

import pytest
import torch

from mcc.core.errors import UsageError
from mcc.train.device import backend, choose


def test_ranks_share_the_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose("auto", rank).index for rank in range(4)] == [0, 1, 0, 1]
    assert choose("cpu", 0).type == "cpu"
    assert backend(torch.device("cuda", 0), 2) == "cpu:gloo,cuda:nccl"
    assert backend(torch.device("cuda", 0), 4) == "gloo" == backend(torch.device("cpu"), 1)


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto", 3) == torch.device("cpu")
    with pytest.raises(UsageError, match="torch sees no GPU"):
        choose("cuda", 0)
