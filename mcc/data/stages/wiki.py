"""MediaWiki dumps to documents."""

from __future__ import annotations

from typing import Any

from mcc.data.base.job import Job
from mcc.data.pipelines.stage import Call, Stage
from mcc.data.wiki import WikiConfig, wiki_job


class Wiki(Stage[WikiConfig]):
    """Articles of MediaWiki dumps as plain text."""

    Config = WikiConfig

    def job(self, call: Call, config: WikiConfig) -> Job[Any]:
        return wiki_job(call.inputs, call.output, config, call.side("rejects"))
