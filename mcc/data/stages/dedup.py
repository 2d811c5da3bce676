"""Near-duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mcc.data.base.job import Job
from mcc.data.dedup import DedupConfig, Sides, dedup_job
from mcc.data.pipelines.stage import Call, Stage


class Dedup(Stage[DedupConfig]):
    """Remove near-duplicates: MinHash-LSH, checked exactly."""

    Config = DedupConfig
    sides: ClassVar[Mapping[str, str | None]] = {"rejects": None, "duplicates": ".duplicates.jsonl", "save": None}

    def job(self, call: Call, config: DedupConfig) -> Job[Any]:
        sides = Sides(duplicates=call.side("duplicates"), rejects=call.side("rejects"), save=call.side("save"))
        return dedup_job(call.inputs, call.output, config, sides)
