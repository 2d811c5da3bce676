"""Documents set aside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mcc.data.base.job import Job
from mcc.data.holdout import HoldOutConfig, hold_out_job
from mcc.data.pipelines.stage import Call, Stage


class Holdout(Stage[HoldOutConfig]):
    """Set documents aside to measure on."""

    Config = HoldOutConfig
    sides: ClassVar[Mapping[str, str | None]] = {"rejects": None, "held_out": ".heldout.jsonl.zst"}

    def job(self, call: Call, config: HoldOutConfig) -> Job[Any]:
        return hold_out_job(call.inputs, call.output, call.sides["held_out"], config, call.side("rejects"))
