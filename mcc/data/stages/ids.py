"""Numbers for documents."""

from __future__ import annotations

from typing import Any

from mcc.data.base.job import Job
from mcc.data.ids import IdsConfig, ids_job
from mcc.data.pipelines.stage import Call, Stage


class Ids(Stage[IdsConfig]):
    """Give every document an id."""

    Config = IdsConfig

    def job(self, call: Call, config: IdsConfig) -> Job[Any]:
        return ids_job(call.inputs, call.output, config, call.side("rejects"))
