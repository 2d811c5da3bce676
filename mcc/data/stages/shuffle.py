"""Documents in random order."""

from __future__ import annotations

from typing import Any

from mcc.data.base.job import Job
from mcc.data.pipelines.stage import Call, Stage
from mcc.data.shuffle import ShuffleConfig, shuffle_job


class Shuffle(Stage[ShuffleConfig]):
    """Put documents into a random order."""

    Config = ShuffleConfig

    def job(self, call: Call, config: ShuffleConfig) -> Job[Any]:
        return shuffle_job(call.inputs, call.output, config, call.side("rejects"))
