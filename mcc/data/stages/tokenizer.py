"""A tokenizer from documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mcc.data.base.job import Job
from mcc.data.pipelines.stage import Call, Stage
from mcc.data.tokenizer import TokenizerConfig, tokenizer_job


class TrainTokenizer(Stage[TokenizerConfig]):
    """Train a tokenizer; word pieces leave `vocab.txt` beside it."""

    Config = TokenizerConfig
    ending = ".json"
    records = False
    sides: ClassVar[Mapping[str, str | None]] = {}

    def job(self, call: Call, config: TokenizerConfig) -> Job[Any]:
        return tokenizer_job(call.inputs, call.output, config)
