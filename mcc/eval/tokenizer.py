"""The tokenizer beside a checkpoint: tokenizers' JSON, and which token begins and ends a text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.data import tokenizer as data_tokenizer
from mcc.models.base.config import ModelConfig

# Where transformers keeps the roles of special tokens.
_ROLE_FILES = ("tokenizer_config.json", "special_tokens_map.json")


class TextTokenizer:
    """Text to token ids and back, with the special tokens that scoring needs.

    Attributes:
        file: where it was read from.
        size: the largest id, plus one.
        bos_id, eos_id: the tokens that begin and end a text; None where the vocabulary has none.
    """

    def __init__(self, file: str | Path) -> None:
        found = data_tokenizer.load_tokenizer(file)
        self.file, self._tokenizer = found.source, found.backend
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values(), default=-1) + 1
        roles = _roles(self.file if self.file.is_dir() else self.file.parent)
        self.eos_id: int | None = vocabulary.get(roles.get("eos_token", ""), found.eod)
        self.bos_id: int | None = vocabulary.get(roles.get("bos_token", ""))

    @property
    def prefix_id(self) -> int | None:
        """What stands before the first token of a text: the harness's rule, bos or else eos."""
        return self.eos_id if self.bos_id is None else self.bos_id

    @property
    def is_byte_level(self) -> bool:
        """Whether a text may be cut before white space and its pieces tokenized alone, to the same tokens.

        True for GPT-2's pre-tokenizer, where nothing but white space ever starts with white space that follows a word.
        """
        layout = json.loads(self._tokenizer.to_str())
        split = layout.get("pre_tokenizer") or {}
        plain: bool = (
            split.get("type") == "ByteLevel" and split.get("use_regex", True) and not split.get("add_prefix_space")
        )
        reaching = any(token["lstrip"] or token["rstrip"] for token in layout.get("added_tokens") or ())
        model = layout.get("model", {}).get("type")
        return plain and not reaching and model == "BPE" and layout.get("normalizer") is None

    def to_json(self) -> str:
        """The whole tokenizer, as tokenizers writes it."""
        found: str = self._tokenizer.to_str()
        return found

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of `text`; `special` adds what the file's post-processor adds."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of `ids`."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return text


def load_tokenizer(file: str | Path, config: ModelConfig, reporter: Reporter = SILENT) -> TextTokenizer:
    """The tokenizer in `file`, checked against the model's vocabulary.

    Args:
        file: tokenizers' JSON, or a folder with it or with GPT-2's vocab.json and merges.txt.
        config: the model.
        reporter: is warned of a tokenizer that leaves rows of the vocabulary unused.

    Raises:
        MccError: there is none, it cannot be read, or it has tokens that the model does not have.
    """
    found = TextTokenizer(file)
    if found.size > config.vocab_size:
        raise MccError(
            f"{found.file}: the tokenizer has {found.size} tokens, the model's vocabulary {config.vocab_size}",
            "give the tokenizer that the model was trained with: --tokenizer FILE",
        )
    if found.size < config.vocab_size:
        reporter.warn(
            f"{found.file}: the tokenizer has {found.size} tokens, the model's vocabulary {config.vocab_size}: "
            "is it the one that the model was trained with?"
        )
    return found


def _roles(folder: Path) -> dict[str, str]:
    """Special tokens by role (`bos_token`, `eos_token`) from transformers' files in `folder`."""
    for name in _ROLE_FILES:
        try:
            values = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        roles = {role: _content(values[role]) for role in ("bos_token", "eos_token") if values.get(role)}
        if roles:
            return roles
    return {}


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token.get("content", ""))
