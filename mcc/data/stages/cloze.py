"""A cloze task from documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mcc.data.base.job import Job
from mcc.data.cloze import ClozeConfig, cloze
from mcc.data.pipelines.stage import Call, Stage, whole


class Cloze(Stage[ClozeConfig]):
    """Make a cloze task in LAMBADA's format."""

    Config = ClozeConfig
    ending = ".jsonl"
    records = False
    sides: ClassVar[Mapping[str, str | None]] = {}

    def job(self, call: Call, config: ClozeConfig) -> Job[Any]:
        return whole("cloze", call, config, cloze)
