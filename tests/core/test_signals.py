"""A kill ends a block in order."""

from __future__ import annotations

import os
import signal

import pytest

from mcc.core.signals import ended_by_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_block_and_the_handler_comes_back(number):
    before, ended = signal.getsignal(number), []
    with pytest.raises(SystemExit) as error, ended_by_signals():
        try:
            os.kill(os.getpid(), number)
        finally:
            ended.append(number)
    assert error.value.code == 128 + number and ended == [number]
    assert signal.getsignal(number) == before
