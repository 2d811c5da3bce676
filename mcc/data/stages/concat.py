"""Several files in one."""

from __future__ import annotations

from typing import Any

from mcc.data.base.job import Job
from mcc.data.concat import ConcatConfig, concat_job
from mcc.data.pipelines.stage import Call, Stage


class Concat(Stage[ConcatConfig]):
    """Write the documents of all inputs to one file."""

    Config = ConcatConfig

    def job(self, call: Call, config: ConcatConfig) -> Job[Any]:
        return concat_job(call.inputs, call.output, config, call.side("rejects"))
