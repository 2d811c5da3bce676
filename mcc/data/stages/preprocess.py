"""Documents to token files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mcc.core.config import option
from mcc.core.errors import MccError
from mcc.data.base.job import Job
from mcc.data.pipelines.stage import Call, Stage
from mcc.data.preprocess import EngineFailure, PreprocessConfig, preprocess_job
from mcc.data.tokens.vocabulary import TokenizerFiles


@dataclass(frozen=True, kw_only=True)
class Settings(PreprocessConfig):
    """`PreprocessConfig` with the tokenizer's files, which are no part of it elsewhere."""

    tokenizer: str | None = option(None, "tokenizer.json, or a folder with a tokenizer's files")
    vocab_file: str | None = option(None, "GPT-2's vocab.json or BERT's vocab.txt")
    merge_file: str | None = option(None, "GPT-2's merges.txt")
    tokenizer_type: str | None = option(None, "kind of tokenizer, by Megatron-LM's names [seen from the files]")

    def files(self) -> TokenizerFiles:
        return TokenizerFiles(
            model=self.tokenizer, vocab_file=self.vocab_file, merge_file=self.merge_file, kind=self.tokenizer_type
        )


class Preprocess(Stage[Settings]):
    """Tokenize documents into Megatron-LM's token files; `output` is their prefix."""

    Config = Settings
    ending = ""
    records = False

    def job(self, call: Call, config: Settings) -> Job[Any]:
        return preprocess_job(call.inputs, call.output, config.files(), config, rejects=call.side("rejects"))

    def instead(self, config: Settings, error: MccError) -> Settings | None:
        plain = "tokenizers"
        return replace(config, engine=plain) if isinstance(error, EngineFailure) and config.engine == "auto" else None

    def tokenizer(self, config: Settings) -> TokenizerFiles:
        return config.files()
