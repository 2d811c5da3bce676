"""The tokenizer that travels with the weights: one `tokenizer.json` (Hugging Face tokenizers' format)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from mcc.core.errors import MccError

TOKENIZER = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"

# What transformers keeps beside tokenizer.json; carried over where the source has it.
_COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")


def token_ids(file: Path) -> dict[str, int]:
    """Token -> id, added tokens included, of a `tokenizer.json`.

    Raises:
        MccError: the file is not a tokenizer.
    """
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
        vocab = whole["model"]["vocab"]
        # BPE and WordPiece keep a table, Unigram a list of [token, score].
        ids = dict(vocab) if isinstance(vocab, dict) else {entry[0]: i for i, entry in enumerate(vocab)}
        ids.update({added["content"]: added["id"] for added in whole.get("added_tokens") or ()})
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise MccError(f"{file} is not a tokenizer file: {error}", "give tokenizers' own JSON") from error
    return ids


def check_vocabulary(file: Path | None, vocab_size: int) -> None:
    """Refuse a tokenizer that makes ids which the model has no row for.

    Raises:
        MccError: its largest id is not below `vocab_size`.
    """
    if file is None:
        return
    ids = token_ids(file)
    largest = max(ids.values(), default=-1)
    if largest >= vocab_size:
        raise MccError(
            f"tokenizer {file} has token ids up to {largest}, but the model's vocabulary has {vocab_size} tokens",
            "this tokenizer belongs to another model",
        )


def copy_tokenizer(file: Path | None, folder: Path) -> str | None:
    """Copy the tokenizer into `folder`; returns its name there, None when there is none."""
    if file is None:
        return None
    shutil.copyfile(file, folder / TOKENIZER)
    return TOKENIZER


def write_hf_tokenizer(file: Path | None, folder: Path, context: int) -> int | None:
    """What `AutoTokenizer.from_pretrained(folder)` needs. Returns the id of the end-of-text token, if there is one.

    Args:
        file: the source's `tokenizer.json`; files that transformers keeps beside it are carried over.
        folder: the Hugging Face folder.
        context: tokens that the model takes at most.
    """
    if file is None:
        return None
    copy_tokenizer(file, folder)
    for name in _COMPANIONS:
        if (file.parent / name).is_file():
            shutil.copyfile(file.parent / name, folder / name)
    end = token_ids(file).get(END_OF_TEXT)
    if not (folder / "tokenizer_config.json").exists():
        values: dict[str, object] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
        }
        if end is not None:
            values |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
        (folder / "tokenizer_config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return end
