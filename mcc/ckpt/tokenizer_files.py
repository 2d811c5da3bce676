"""The tokenizer that travels with the weights: one `tokenizer.json` (Hugging Face tokenizers' format).

Older Hugging Face folders have a vocabulary alone, GPT-2's `vocab.json` and `merges.txt` or BERT's `vocab.txt`;
`tokenizer.json` is made of it when it is needed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcc.core.errors import MccError

TOKENIZER = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"

# What transformers keeps beside tokenizer.json; carried over where the source has it.
_COMPANIONS = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "generation_config.json"),
)
_VOCABULARIES = (("vocab.json", "merges.txt"), ("vocab.txt",))
_BERT_TOKENS = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}  # fmt: skip
_LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def find_tokenizer(folder: Path) -> Path | None:
    """A Hugging Face folder's tokenizer: `tokenizer.json`, or the first file of a vocabulary; None: there is none."""
    for names in ((TOKENIZER,), *_VOCABULARIES):
        if all((folder / name).is_file() for name in names):
            return folder / names[0]
    return None


def is_vocabulary(file: Path) -> bool:
    """Whether what `find_tokenizer` found is a vocabulary alone."""
    return any(file.name == names[0] for names in _VOCABULARIES)


def tokenizer_json(file: Path) -> str:
    """The text of `tokenizer.json` for what `find_tokenizer` found; transformers makes it of a vocabulary.

    Raises:
        MccError: it makes nothing of these files.
    """
    if not is_vocabulary(file):
        return file.read_bytes().decode()
    from transformers import AutoTokenizer

    try:
        made: str = AutoTokenizer.from_pretrained(file.parent, local_files_only=True).backend_tokenizer.to_str()
    except (OSError, ValueError, LookupError, AttributeError, TypeError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise MccError(f"{file}: transformers makes no tokenizer of it: {reason}") from error
    return made


def token_ids(file: Path) -> dict[str, int]:
    """Token -> id, added tokens included, of a `tokenizer.json` or of what `find_tokenizer` found.

    Raises:
        MccError: the file is not a tokenizer.
    """
    try:
        text = file.read_text(encoding="utf-8")
        if file.name == "vocab.txt":
            return {line: i for i, line in enumerate(text.removesuffix("\n").split("\n"))}
        whole = json.loads(text)
        if file.name == "vocab.json":
            return {str(token): int(i) for token, i in whole.items()}
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
    """Copy the tokenizer, as `tokenizer.json`, and transformers' files beside it into `folder`.

    Returns:
        Its name there; None where there is none.
    """
    if file is None:
        return None
    (folder / TOKENIZER).write_bytes(tokenizer_json(file).encode())
    for name in _COMPANIONS:
        if (file.parent / name).is_file():
            shutil.copyfile(file.parent / name, folder / name)
    return TOKENIZER


def write_hf_tokenizer(file: Path | None, folder: Path, context: int) -> dict[str, Any]:
    """What `AutoTokenizer.from_pretrained(folder)` needs. Returns the ids that config.json names: None where unknown.

    Args:
        file: what `find_tokenizer` found; files that transformers keeps beside it are carried over, and a
            generation_config.json among them has the last word on the ids.
        folder: the Hugging Face folder.
        context: tokens that the model takes at most.
    """
    named: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if file is None:
        return named
    copy_tokenizer(file, folder)
    ids = token_ids(folder / TOKENIZER)
    configured = folder / "tokenizer_config.json"
    if not configured.exists():
        values: dict[str, object] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
            **_special_tokens(ids),
        }
        configured.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    try:
        roles = json.loads(configured.read_text(encoding="utf-8"))
        for key in named:
            token = roles.get(key.removesuffix("_id"))
            named[key] = ids.get(token["content"] if isinstance(token, dict) else token)
    except (ValueError, LookupError, TypeError, AttributeError):
        pass  # carried over as it is; transformers will say what is wrong with it
    named |= {key: value for key, value in _generation_ids(folder).items() if key in named and value is not None}
    if named["eos_token_id"] is None and END_OF_TEXT in ids:
        named |= dict.fromkeys(("bos_token_id", "eos_token_id"), ids[END_OF_TEXT])
    return named


def _generation_ids(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _special_tokens(ids: dict[str, int]) -> Mapping[str, object]:
    """Which tokens have a part to play, by their customary names: GPT-2's, BERT's (with segments) or Llama's."""
    if END_OF_TEXT in ids:
        return dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    found = {role: token for role, token in _BERT_TOKENS.items() if token in ids}
    if found:
        return {**found, "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    return {role: token for role, token in _LLAMA_TOKENS.items() if token in ids}
