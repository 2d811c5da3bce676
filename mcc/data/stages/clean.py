"""Filters in order."""

from __future__ import annotations

from typing import Any

from mcc.data.base.job import Job
from mcc.data.filtering import CleanConfig, clean_job
from mcc.data.pipelines.stage import Call, Stage


class Clean(Stage[CleanConfig]):
    """Keep good documents: filters in order."""

    Config = CleanConfig

    def job(self, call: Call, config: CleanConfig) -> Job[Any]:
        return clean_job(call.inputs, call.output, config, call.side("rejects"))
