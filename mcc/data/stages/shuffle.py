"""Documents in random order."""

from __future__ import annotations

from typing import Any

from mcc.data.job import Job
from mcc.data.shuffle import ShuffleConfig, shuffle_job
from mcc.data.stage import Call, Stage


class Shuffle(Stage[ShuffleConfig]):
    """Put documents into a random order."""

    Config = ShuffleConfig

    def job(self, call: Call, config: ShuffleConfig) -> Job[Any]:
        return shuffle_job(call.inputs, call.output, config, call.side("rejects"))
