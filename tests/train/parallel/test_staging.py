"""What a GPU's tensors go through where gloo carries them, with tensors that are on the host anyway."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mcc.train.compress import host
from tests.ranks import run_ranks
from tests.train.toy import toy_config, trained


def _staged(*arguments: Any) -> Any:
    copies = []

    def to_host(x: torch.Tensor) -> torch.Tensor:
        copies.append(x.nbytes)
        return x.detach().clone()

    host.staged = lambda x, group: True  # type: ignore[assignment]
    host.to_host = to_host  # type: ignore[assignment]
    losses, parameters = trained(*arguments)
    return losses, parameters, sum(copies)


@pytest.mark.parametrize("compress", [(), ("pp.forward=quantize:bits=8", "pp.backward=quantize:bits=8")])
def test_staged_messages_change_nothing(compress: tuple[str, ...]) -> None:
    config = toy_config(tp=2, pp=2, compress=compress)
    for plain, staged in zip(run_ranks(trained, 4, config, 3), run_ranks(_staged, 4, config, 3), strict=True):
        assert plain[0] == staged[0]
        assert all(torch.equal(plain[1][name], staged[1][name]) for name in plain[1])
        assert staged[2] > 0
