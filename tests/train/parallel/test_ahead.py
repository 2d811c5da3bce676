"""Under gpipe a stage's next receive begins before it computes: gloo sends nothing before its receiver waits for it."""

from __future__ import annotations

from typing import Any

import pytest

from mcc.train.parallel.wire_stage import WireStage, _Receive
from tests.ranks import run_ranks
from tests.train.toy import make_engine, toy_config, train

MICROBATCHES = 8
CODED = ("pp.forward=quantize:bits=8", "pp.backward=quantize:bits=8")


def begun(schedule: str, compress: tuple[str, ...]) -> dict[str, list[int]]:
    """How many receives this rank has begun when it begins each of its forward passes, and each backward one."""
    engine = make_engine(toy_config(pp=2, compress=compress, parallel={"schedule": schedule}))
    receives = 0
    found: dict[str, list[int]] = {"forward": [], "backward": []}
    begin, forward, backward = _Receive.begin, WireStage.forward_one_chunk, WireStage.backward_one_chunk

    def counted(receive: _Receive, *args: Any) -> None:
        nonlocal receives
        receives += receive._work is None
        begin(receive, *args)

    def noted(kind: str, inner: Any) -> Any:
        def noting(stage: WireStage, *args: Any, **kwargs: Any) -> Any:
            found[kind].append(receives)
            return inner(stage, *args, **kwargs)

        return noting

    _Receive.begin = counted
    WireStage.forward_one_chunk, WireStage.backward_one_chunk = noted("forward", forward), noted("backward", backward)
    train(engine, 1)
    return found


@pytest.mark.parametrize("compress", [(), CODED], ids=["dense", "coded"])
def test_gpipe_receives_the_next_micro_batch_while_it_computes(compress):
    first, last = run_ranks(begun, 2, "gpipe", compress)
    assert last["forward"] == first["backward"] == [*range(2, MICROBATCHES + 1), MICROBATCHES]


def test_1f1b_holds_no_more_than_it_works_on():
    first, last = run_ranks(begun, 2, "1f1b", ())
    assert last["forward"] == first["backward"] == [*range(1, MICROBATCHES + 1)]
