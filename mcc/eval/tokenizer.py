"""The tokenizer beside a checkpoint: tokenizers' JSON, and which token begins and ends a text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.core.files import require_file
from mcc.models.base.config import ModelConfig

# Where transformers keeps the roles of special tokens.
_ROLE_FILES = ("tokenizer_config.json", "special_tokens_map.json")
# What ends a text in vocabularies that come without such a file.
_KNOWN_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")


class TextTokenizer:
    """Text to token ids and back.

    Attributes:
        file: where it was read from.
        size: the largest id, plus one.
        bos_id, eos_id: the tokens that begin and end a text; None where the vocabulary has none.
    """

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer

        self.file = require_file(file, "tokenizer file")
        try:
            self._tokenizer = Tokenizer.from_file(str(self.file))
        except Exception as error:  # tokenizers raises bare Exception
            raise MccError(f"{file} is not a tokenizer file: {error}", "give a tokenizer.json of tokenizers") from error
        # A file saved by a training script may truncate or pad; scores may not.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values(), default=-1) + 1
        roles = _roles(self.file.parent)
        ends = [name for name in (roles.get("eos_token"), *_KNOWN_ENDS) if name in vocabulary]
        self.eos_id: int | None = vocabulary[ends[0]] if ends else None
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
        plain = split.get("type") == "ByteLevel" and split.get("use_regex", True) and not split.get("add_prefix_space")
        return plain and layout.get("normalizer") is None and layout.get("model", {}).get("type") == "BPE"

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of `text`; `special` adds what the file's post-processor adds."""
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of `ids`."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)


def load_tokenizer(file: str | Path, config: ModelConfig, reporter: Reporter = SILENT) -> TextTokenizer:
    """The tokenizer in `file` (or in the folder `file`), checked against the model's vocabulary.

    Raises:
        MccError: there is none, it cannot be read, or it has tokens that the model does not have.
    """
    path = Path(file)
    found = TextTokenizer(path / "tokenizer.json" if path.is_dir() else path)
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
