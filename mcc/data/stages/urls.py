"""URLs, or documents by their URLs."""

from __future__ import annotations

from typing import Any

from mcc.data.base.job import Job
from mcc.data.pipelines.stage import Call, Stage
from mcc.data.urls import UrlsConfig, urls_job


class Urls(Stage[UrlsConfig]):
    """Keep URLs, or documents with URLs, that no rule refuses, each once."""

    Config = UrlsConfig

    def job(self, call: Call, config: UrlsConfig) -> Job[Any]:
        return urls_job(call.inputs, call.output, config, call.side("rejects"))
