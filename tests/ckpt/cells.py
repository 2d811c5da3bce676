"""Every cell of formats x families x directions, really run on a tiny model, and the table in docs/checkpoints.md.

`python -m tests.ckpt.cells` runs them and writes the table into the page; `tests/ckpt/test_cells.py` runs them and
compares. Formats and families are found by name: a new one has its cells without an edit here, but that a format which
is only read needs somebody to lay it out (`FOREIGN`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mcc.ckpt import megatron_tree as tree
from mcc.ckpt.format import WriteOptions, detect, formats, open_checkpoint
from mcc.ckpt.load import LoadedModel, build_model, load_model, logits
from mcc.ckpt.megatron_args import make_args, require_megatron
from mcc.ckpt.verify import verify
from mcc.core.errors import MccError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import families
from mcc.models.base.forms import pad_rows
from tests.ckpt import core_run, deepspeed_run
from tests.ckpt.models import InMemory, assert_same_tensors, tokens_for

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
BEGIN, END = "<!-- begin: python -m tests.ckpt.cells -->", "<!-- end -->"
SLOTS = ("exp_avg", "exp_avg_sq")
DIRECTIONS = ("read", "write")

# What a family needs besides the sizes: its own sizes, where those of GPT-2 would say less.
_OWN: dict[str, dict[str, Any]] = {
    "gpt-neox": {"rotary_percent": 0.5, "untie_embeddings_and_output_weights": True},
    "llama": {"num_query_groups": 2, "ffn_hidden_size": 24},
    "mistral": {"num_query_groups": 2, "sliding_window": 16},
    "qwen2": {"num_query_groups": 2, "untie_embeddings_and_output_weights": True},
    "roberta": {"num_tokentypes": 1},
}


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: the optimizer's state went along or not; or it was refused, with this message."""

    state: bool = False
    refused: str = ""


def model_of(family: str) -> InMemory:
    """A tiny model with the head of pretraining, and optimizer state. 131 is prime: no rule of padding divides it."""
    heads = families.get(family).blueprint.heads
    config = ModelConfig(
        family=family, head="pretraining" if "pretraining" in heads else "lm", num_layers=2, hidden_size=16,
        num_attention_heads=4, seq_length=16, vocab_size=131, make_vocab_size_divisible_by=8, **_OWN.get(family, {}),
    )  # fmt: skip
    return InMemory(config, slots=SLOTS, iteration=3)


@cache
def outcome(format: str, family: str, direction: str) -> Outcome:
    """Run one cell.

    Raises:
        AssertionError: what came back is not what went in.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), model_of(family)
        try:
            if direction == "write":
                formats.get(format)().write(model, folder / "out", WriteOptions())
            else:
                lay_out(format, model, folder / "out")
        except MccError as error:
            return Outcome(refused=error.what)
        return Outcome(state=_check(folder / "out", format, model))


def _check(path: Path, format: str, model: InMemory) -> bool:
    """Compare the checkpoint at `path` with the model that it was made of; whether its optimizer state is there."""
    assert detect(path).name == format
    found = open_checkpoint(path)
    assert_same_tensors(found, model)
    config, tokens = model.meta.config, tokens_for(model.meta.config.vocab_size)
    whole = LoadedModel(
        config=config, model=build_model(model), tokenizer_file=None, source_format="", meta=model.meta
    )  # fmt: skip
    assert torch.equal(logits(load_model(path), tokens), logits(whole, tokens))
    if not found.slots():
        return False
    assert found.slots() == SLOTS
    for slot in SLOTS:
        for name in found.shapes():
            assert torch.equal(found.read_slot(slot, name), model.read_slot(slot, name)), (slot, name)
    return True


def lay_out(format: str, model: InMemory, path: Path) -> None:
    """The model as a checkpoint to be read, written by others where others write the format.

    Raises:
        MccError: the format has no such model.
    """
    (FOREIGN.get(format) or _ours(format))(model, path)


def _ours(format: str) -> Callable[[InMemory, Path], None]:
    """A checkpoint to read where nobody else wrote one: our own."""
    plugin = formats.get(format)()
    if plugin.read_only:
        raise AssertionError(f"{format} is only read: `FOREIGN` needs what lays it out")
    return lambda model, path: plugin.write(model, path) and None


def _transformers(model: InMemory, folder: Path) -> Any:
    """The same model as transformers has it."""
    import transformers

    formats.get("hf")().write(model, folder)
    config = model.meta.config
    kind = getattr(transformers, families.get(config.family).hf_classes[config.head])
    transformers.utils.logging.disable_progress_bar()
    return kind.from_pretrained(folder, local_files_only=True)


def _hf(model: InMemory, path: Path) -> None:
    """As transformers saves it; and it computes the same logits from it as mcc."""
    _transformers(model, path.parent / "first").save_pretrained(path)
    report = verify(path)
    assert report.runs == ("mcc", "transformers"), report
    assert report.passed, report


def _deepspeed(model: InMemory, path: Path) -> None:
    """ZeRO-2 of two ranks, of the model in transformers."""
    theirs = _transformers(model, path.parent / "first")
    theirs.config.save_pretrained(path)
    weights = {name: p.detach() for name, p in theirs.named_parameters()}
    state = {name: (w, w + 1, w + 1 + 1) for name, w in weights.items()}
    shared = {"lm_head.weight": "tied"}
    deepspeed_run.write_rank(path / "global_step7", [state], stage=2, world=2, module={}, shared_params=shared)


# Megatron-LM's names -> Megatron core's.
_CORE = (
    ("language_model.embedding.", "embedding."),
    ("language_model.encoder.", "decoder."),
    ("language_model.output_layer.", "output_layer."),
    ("language_model.pooler.", "pooler."),
    ("self_attention.query_key_value.", "self_attention.linear_qkv."),
    ("self_attention.dense.", "self_attention.linear_proj."),
    ("mlp.dense_h_to_4h.", "mlp.linear_fc1."),
    ("mlp.dense_4h_to_h.", "mlp.linear_fc2."),
    ("post_attention_layernorm.", "pre_mlp_layernorm."),
    ("lm_head.layernorm.", "lm_head.layer_norm."),
    ("lm_head.bias", "output_layer.bias"),
)


def _core(model: InMemory, path: Path) -> None:
    """As two tensor-parallel ranks of Megatron core save it."""
    config = model.meta.config
    family = families.get(config.family)()
    require_megatron(family, config, 3.0)
    rows = config.padded_vocab_size(2)
    reads = {"": model.read} | {f"optimizer.state.{slot}.": _slot(model, slot) for slot in SLOTS}
    held: dict[str, list[torch.Tensor]] = {}
    cut: dict[str, dict[int, int]] = {}
    for name, row, layer in family.table(config):
        where, key = tree.place_of(row, layer, config.num_layers)
        key = tree.spelling(key.format(i=where))
        for theirs, core in _CORE:
            key = key.replace(theirs, core)
        for prefix, read in reads.items():
            whole = pad_rows(read(name), rows) if row.shape[0] == "V" else read(name)
            held.setdefault(prefix + key, []).append(whole)
            cut[prefix + key] = {} if row.tp_dim is None else {row.tp_dim: 2 * row.megatron_part[1]}
    tensors = {key: core_run.Parts(torch.cat(parts), cut[key]) for key, parts in held.items()}
    args = make_args(model.meta, rows, WriteOptions(tp=2), torch.float32)
    common = {"args": args, "iteration": 3, "checkpoint_version": 3.0, "optimizer": {"param_groups": [{"step": 3}]}}
    core_run.write(path / "iter_0000003", tensors, common)


def _slot(model: InMemory, slot: str) -> Callable[[str], torch.Tensor]:
    return lambda name: model.read_slot(slot, name)


# Who lays out what other programs write: transformers itself, and scripts of the tests.
FOREIGN: dict[str, Callable[[InMemory, Path], None]] = {
    "hf": _hf,
    "deepspeed": _deepspeed,
    "megatron-core": _core,
}


def table() -> str:
    """The table, and below it what the refusals say."""
    names, notes = formats.names(), list[str]()
    lines = [
        "| | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---" * (1 + len(names)) + "|",
    ]
    for family, _ in families.all():
        cells = []
        for name in names:
            words = [_word(name, family, direction, notes) for direction in DIRECTIONS]
            cells.append(words[0] if words[0] == words[1] else "; ".join(words))
        lines.append(f"| `{family}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1))])


def _word(format: str, family: str, direction: str, notes: list[str]) -> str:
    found = outcome(format, family, direction)
    if not found.refused:
        return direction + ("+" if found.state else "")
    note = found.refused.replace(family, "...")
    if note not in notes:
        notes.append(note)
    return f"no ({notes.index(note) + 1})" if "..." in note else f"write: no ({notes.index(note) + 1})"


def written() -> str:
    """The table that is in the page."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    """Put the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
