"""Text for runs that are given none: Python's own documentation, as the quickstart's, tokenized and binarised."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from mcc.core.events import SILENT, Reporter
from mcc.data.corpus import python_corpus
from mcc.data.holdout import HoldOutConfig, hold_out
from mcc.data.preprocess import PreprocessConfig, preprocess
from mcc.data.tokenizer import TokenizerConfig, train_tokenizer
from mcc.train.config import TrainConfig

_MAX_CHARS = 3_000_000
_VOCAB_SIZE = 2048


def embedded(training: TrainConfig, folder: Path, reporter: Reporter = SILENT) -> TrainConfig:
    """`training` with token files and a tokenizer made in `folder`.

    Raises:
        MccError: this Python carries no documentation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    raw, tokenizer = folder / "raw.jsonl", folder / "tokenizer.json"
    with raw.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in python_corpus(_MAX_CHARS))
    train, held_out = folder / "train.jsonl", folder / "heldout.jsonl"
    hold_out([raw], train, held_out, HoldOutConfig(seed=training.run.seed), reporter)
    train_tokenizer([train], tokenizer, TokenizerConfig(vocab_size=_VOCAB_SIZE), reporter)
    prefixes = [
        preprocess([text], folder / text.stem, tokenizer, PreprocessConfig(append_eod=True), reporter).prefixes["text"]
        for text in (train, held_out)
    ]
    data = dataclasses.replace(
        training.data, data_path=prefixes[0], valid_data_path=prefixes[1], tokenizer=str(tokenizer)
    )
    return dataclasses.replace(training, data=data)
