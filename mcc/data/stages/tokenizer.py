"""A tokenizer from documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mcc.data.base.job import Job
from mcc.data.pipelines.stage import Call, Stage, whole
from mcc.data.tokenizer import TokenizerConfig, train_tokenizer


class TrainTokenizer(Stage[TokenizerConfig]):
    """Train a tokenizer."""

    Config = TokenizerConfig
    ending = ".json"
    records = False
    sides: ClassVar[Mapping[str, str | None]] = {}

    def job(self, call: Call, config: TokenizerConfig) -> Job[Any]:
        return whole("tokenizer", call, config, train_tokenizer)
