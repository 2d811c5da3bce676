"""Evaluation tasks out of documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mcc.data.base.job import Job
from mcc.data.decontaminate import DecontaminateConfig, decontaminate_job
from mcc.data.pipelines.stage import Call, Stage


class Decontaminate(Stage[DecontaminateConfig]):
    """Cut the passages of evaluation tasks out of documents."""

    Config = DecontaminateConfig
    sides: ClassVar[Mapping[str, str | None]] = {"rejects": None, "save": None}

    def job(self, call: Call, config: DecontaminateConfig) -> Job[Any]:
        return decontaminate_job(call.inputs, call.output, config, call.side("rejects"), call.side("save"))
