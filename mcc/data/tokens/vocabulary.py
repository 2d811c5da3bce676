"""Tokenizers that others made, read from files, with Megatron-LM's names for their kinds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mcc.core.errors import MccError, UsageError, unknown

END_OF_TEXT = "<|endoftext|>"
# What models call the token between documents; the first that a vocabulary has is taken.
_END_NAMES = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|eos|>", "[SEP]")
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Megatron-LM's --tokenizer-type, as far as text goes.
KINDS = ("HuggingFaceTokenizer", "GPT2BPETokenizer", "BertWordPieceLowerCase", "BertWordPieceCase")
# Where transformers keeps what tokenizer.json does not say.
_CONFIG = "tokenizer_config.json"
_WHAT = "tokenizer.json, a folder with it or with vocab.json + merges.txt, or BERT's vocab.txt"
# A longer word is unknown (BERT's limit).
_WORD_CHARS = 100


class TextTokenizer:
    """A tokenizer read from files: text to ids and back.

    Attributes:
        backend: the `tokenizers.Tokenizer`.
        vocab_size: with added tokens.
        eod: id of the token between documents, or None when the vocabulary has none.
        source: the path it was read from.
        special: whether Megatron-LM lets the tokenizer put its special tokens around a text.
    """

    def __init__(self, backend: Any, source: Path, eod: int | None = None, special: bool = False) -> None:
        self.backend = backend
        self.source = source
        self.special = special
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        ids = (backend.token_to_id(name) for name in _END_NAMES)
        self.eod: int | None = next((found for found in ids if found is not None), None) if eod is None else eod
        # A document is taken whole, whatever a model's own length is.
        backend.no_padding()
        backend.no_truncation()

    @cached_property
    def layout(self) -> str:
        """All of it as text: equal for equal tokenizers."""
        text: str = self.backend.to_str()
        return text

    @property
    def largest_id(self) -> int:
        """The largest id that it can give."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens around it."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens shown."""
        text: str = self.backend.decode([int(i) for i in ids], skip_special_tokens=False)
        return text

    def require_eod(self) -> int:
        """`eod`.

        Raises:
            MccError: the vocabulary has no token for it.
        """
        if self.eod is None:
            raise MccError(
                f"{self.source}: the vocabulary has no end-of-document token", f"known: {', '.join(_END_NAMES)}"
            )
        return self.eod


class SlowTokenizer(TextTokenizer):
    """A tokenizer of transformers that is written in Python; `backend` is transformers' own object."""

    def __init__(self, found: Any, source: Path, eod: int | None) -> None:
        self.backend: Any = found
        self.source = source
        self.special = True
        self.vocab_size = len(found)
        self.eod = eod

    @cached_property
    def layout(self) -> str:
        return repr(sorted(self.backend.get_vocab().items()))

    @property
    def largest_id(self) -> int:
        return max(self.backend.get_vocab().values(), default=-1)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.backend(text, add_special_tokens=False).input_ids
        return ids


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """A tokenizer from `tokenizer.json`, from a folder that holds one or GPT-2's `vocab.json` + `merges.txt`, or from
    BERT's `vocab.txt` (also alone in its folder).

    Raises:
        MccError: the files are missing or not what their names say.
    """
    given = _existing(path)
    if given.is_dir():
        if (given / "tokenizer.json").is_file():
            given = given / "tokenizer.json"
        elif (given / "vocab.json").is_file() and (given / "merges.txt").is_file():
            return TextTokenizer(_gpt2(given / "vocab.json", given / "merges.txt", given, letters=True), given)
        elif (given / "vocab.txt").is_file():
            return load_tokenizer(given / "vocab.txt")
        else:
            raise MccError(f"no tokenizer in {given}", f"give {_WHAT}")
    if given.suffix == ".txt":
        return TextTokenizer(word_piece(given, lowercase=not _has_capitals(given)), given)
    eod = None
    try:
        backend = Tokenizer.from_file(str(given))
    except Exception as error:  # the library raises plain Exception
        if given.name == "vocab.json":
            hint = "GPT-2's vocab.json goes with merges.txt: give both (--vocab-file, --merge-file), or their folder"
            raise MccError(f"{given} is only half of a tokenizer", hint) from error
        raise MccError(f"{given}: not a tokenizer file: {one_line(error)}", f"give {_WHAT}") from error
    role = _role(given.parent, "eos_token")
    if role is not None:
        eod = backend.token_to_id(role)
    return TextTokenizer(backend, given, eod)


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """The tokenizer that Megatron-LM's flags mean.

    Args:
        model: tokenizer.json or a folder (`--tokenizer-model`).
        vocab_file, merge_file: GPT-2's vocab.json and merges.txt, or BERT's vocab.txt.
        kind: one of `KINDS` (`--tokenizer-type`); None to see it from the files.
        special_tokens: whether the tokenizer's special tokens stand around every text; None for Megatron-LM's
            habit: yes for HuggingFaceTokenizer, no for the others.

    Raises:
        UsageError: there is no file, or they do not fit together.
    """

    model: str | None = None
    vocab_file: str | None = None
    merge_file: str | None = None
    kind: str | None = None
    special_tokens: bool | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise unknown("tokenizer type", self.kind, KINDS)
        if (self.model is None) == (self.vocab_file is None):
            raise UsageError("give the tokenizer once", f"--tokenizer PATH ({_WHAT}), or --vocab-file FILE")
        if self.merge_file is not None and self.vocab_file is None:
            raise UsageError("--merge-file goes with --vocab-file")

    def read(self) -> TextTokenizer:
        """The tokenizer.

        Raises:
            MccError: the files are missing or not what they should be.
        """
        found = self._read()
        found.special = self._special(found)
        return found

    def _special(self, found: TextTokenizer) -> bool:
        if self.special_tokens is not None:
            return self.special_tokens
        plain = self.kind not in (None, "HuggingFaceTokenizer") or found.source.suffix == ".txt"
        return not plain

    def _read(self) -> TextTokenizer:
        kind = self.kind
        if self.vocab_file is not None:
            vocabulary = _existing(self.vocab_file)
            if self.merge_file is not None or kind == "GPT2BPETokenizer":
                if self.merge_file is None or kind not in (None, "GPT2BPETokenizer", "HuggingFaceTokenizer"):
                    raise UsageError("GPT2BPETokenizer takes --vocab-file and --merge-file", "give both")
                letters = kind != "HuggingFaceTokenizer"
                return TextTokenizer(_gpt2(vocabulary, _existing(self.merge_file), vocabulary, letters), vocabulary)
            if kind in (None, "HuggingFaceTokenizer") and vocabulary.suffix != ".txt":
                return load_tokenizer(vocabulary)
            lowercase = not _has_capitals(vocabulary) if kind is None else kind != "BertWordPieceCase"
            return TextTokenizer(word_piece(vocabulary, lowercase), vocabulary)
        assert self.model is not None
        given = _existing(self.model)
        if kind in ("BertWordPieceLowerCase", "BertWordPieceCase"):
            path = given / "vocab.txt" if given.is_dir() else given
            return TextTokenizer(word_piece(_existing(path), kind == "BertWordPieceLowerCase"), path)
        if kind == "GPT2BPETokenizer" and given.is_dir():
            return TextTokenizer(_gpt2(given / "vocab.json", given / "merges.txt", given, letters=True), given)
        if given.is_dir() and (given / _CONFIG).is_file():
            return _transformers(given)
        return load_tokenizer(given)


def word_piece(vocabulary: Path, lowercase: bool) -> Tokenizer:
    """BERT's tokenizer (Devlin et al. 2019) from `vocab.txt`: one piece a line, its number is its id.

    Raises:
        MccError: the file is not such a vocabulary.
    """
    try:
        lines = vocabulary.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MccError(f"{vocabulary}: not a BERT vocabulary: {one_line(error)}") from error
    pieces = {line.strip(): number for number, line in enumerate(lines)}
    missing = [name for name in BERT_TOKENS if name not in pieces]
    if missing:
        raise MccError(f"{vocabulary}: not a BERT vocabulary: no {', '.join(missing)}", "one piece a line")
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=_WORD_CHARS))
    return as_bert(tokenizer, lowercase)


def as_bert(tokenizer: Tokenizer, lowercase: bool) -> Tokenizer:
    """`tokenizer` with BERT's way to normalize, split and mark texts; its model must know `BERT_TOKENS`."""
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    separator, start = tokenizer.token_to_id("[SEP]"), tokenizer.token_to_id("[CLS]")
    if separator is not None and start is not None:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", separator), ("[CLS]", start))
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in BERT_TOKENS])
    return tokenizer


def byte_level(model: Any, letters: bool = False) -> Tokenizer:
    """GPT-2's way to split texts into bytes (Radford et al. 2019) around a BPE model.

    `letters`: an end of text that is written out in a text is letters like others, as in Megatron-LM's own GPT-2
    tokenizer; else it is the token, as in transformers.
    """
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if tokenizer.token_to_id(END_OF_TEXT) is not None and not letters:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _gpt2(vocabulary: Path, merges: Path, name: Path, letters: bool = False) -> Tokenizer:
    try:
        # `tokenizers` leaves out what has no number, without a word.
        if any(type(number) is not int for number in orjson.loads(vocabulary.read_bytes()).values()):
            raise ValueError("a token's number is no number")
        model = models.BPE.from_file(str(vocabulary), str(merges))
    except Exception as error:
        raise MccError(f"{name}: not a GPT-2 vocabulary: {one_line(error)}") from error
    return byte_level(model, letters)


def _transformers(folder: Path) -> TextTokenizer:
    """What transformers makes of its folder: the class named there may change what tokenizer.json says."""
    from transformers import AutoTokenizer

    try:
        found: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise MccError(f"{folder}: transformers cannot load this tokenizer: {one_line(error)}") from error
    eod = found.eos_token_id if found.eos_token_id is not None else found.sep_token_id
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        return SlowTokenizer(found, folder, eod)
    return TextTokenizer(Tokenizer.from_str(backend.to_str()), folder, eod)


def _has_capitals(vocabulary: Path) -> bool:
    """Whether a BERT vocabulary is cased: it has pieces with capitals beside [UNK] and its like."""
    with vocabulary.open(encoding="utf-8", errors="replace") as lines:
        return any(line != line.lower() and not line.startswith("[") for line in lines)


def _role(folder: Path, role: str) -> str | None:
    """The token that transformers' files in `folder` give a role, for example `eos_token`."""
    for name in (_CONFIG, "special_tokens_map.json"):
        try:
            token: str | Mapping[str, Any] | None = json.loads((folder / name).read_text(encoding="utf-8")).get(role)
        except (OSError, ValueError, AttributeError):
            continue
        if token:
            return token if isinstance(token, str) else str(token.get("content", ""))
    return None


def _existing(path: str | Path) -> Path:
    given = Path(path)
    if not given.exists():
        raise MccError(f"no such tokenizer: {given}", f"give {_WHAT}")
    return given


def one_line(error: Exception) -> str:
    """What an error of a library says, on one line of bearable length."""
    return " ".join(str(error).split())[:200]
