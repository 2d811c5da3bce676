"""Megatron-LM's classic checkpoints: one file a rank, checkpoint versions 0 to 3, tensor x pipeline parallel.

ROOT/latest_checkpointed_iteration.txt                      `release` or a number
ROOT/{release|iter_0000100}/mp_rank_TT[_PPP]/model_optim_rng.pt
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mcc.ckpt import megatron_tree as tree
from mcc.ckpt.dtypes import cast, dtype_named
from mcc.ckpt.foreign import load_foreign
from mcc.ckpt.format import Format, WriteOptions
from mcc.ckpt.layout import check_layout, even_chunks
from mcc.ckpt.megatron_args import config_from_args, make_args, require_megatron
from mcc.ckpt.source import Layout, Meta, Source, expected_shapes
from mcc.ckpt.tokenizer_files import TOKENIZER, copy_tokenizer, token_ids
from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import TOKENS, Family, Param, families
from mcc.models.base.forms import pad_rows, shard

if TYPE_CHECKING:
    from torch import Tensor


# Where a tensor is: pipeline stage, chunk of layers there, key in the chunk.
Place = tuple[int, int, str]


class _Rank:
    """One rank's file: for each of its chunks of layers the flat tensors, memory-mapped; and the rest."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.values: dict[str, Any] = load_foreign(file)
        models = tree.chunks(self.values) if isinstance(self.values, dict) else []
        if not models:
            raise MccError(f"{file} has no model")
        self.chunks = [tree.flatten(model) for model in models]

    def get(self, chunk: int, key: str) -> Tensor:
        if key not in self.chunks[chunk]:
            raise MccError(f"{self.file} has no tensor {tree.in_chunk(chunk, len(self.chunks))}{key}")
        return self.chunks[chunk][key]


class _Megatron(Source):
    def __init__(self, path: Path) -> None:
        folder = tree.tracked(path)
        self.ranks, self.layout = _open_ranks(folder)
        first = self.ranks[0, 0]
        self.version = float(first.values.get("checkpoint_version", 0))
        self.family = _family(first)
        args = first.values.get("args")
        rows = first.get(0, self.family.row(TOKENS).megatron).shape[0] * self.layout.tp
        tokenizer = next((f / TOKENIZER for f in (folder, folder.parent) if (f / TOKENIZER).is_file()), None)
        vocabulary, origin = _vocabulary(args, rows, tokenizer)
        known = {"vocab_size": vocabulary, **_head(self.family, self.ranks[0, self.layout.pp - 1].chunks[-1])}
        if self.family.blueprint.token_types:
            known["num_tokentypes"] = first.get(0, self.family.row("embedding.types.weight").megatron).shape[0]
        config = config_from_args(args, self.family, known, first.file)
        iteration = first.values.get("iteration", first.values.get("total_iters", 0))
        self.meta = Meta(
            config=config,
            iteration=int(iteration),
            layout=self.layout,
            padded_vocab_size=rows,
            tokenizer=tokenizer,
            extra={
                "checkpoint_version": self.version,
                "consumed_samples": int(getattr(args, "consumed_train_samples", 0) or 0),
                "vocabulary_from": origin,
            },
            unread=("optimizer state",) if first.values.get("optimizer") else (),
        )
        self._shapes = expected_shapes(config)
        self._place = dict(self._places(config))
        for name, shape in self._shapes.items():
            self._check(name, shape)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def dtypes(self) -> dict[str, torch.dtype]:
        found = {}
        for name, (_, (stage, chunk, key)) in self._place.items():
            found[name] = self.ranks[0, stage].get(chunk, key).dtype
        return found

    def read(self, name: str) -> Tensor:
        row, (stage, chunk, key) = self._place[name]
        ranks = range(self.layout.tp if row.tp_dim is not None else 1)
        parts = [self.ranks[rank, stage].get(chunk, key) for rank in ranks]
        part, of = row.megatron_part
        if of > 1:
            parts = [whole.chunk(of)[part] for whole in parts]
        if is_qkv(row):
            parts = [tree.qkv_from(part, self.version, self.meta.config.head_dim) for part in parts]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=row.tp_dim)
        return pad_rows(whole, self._shapes[name][0])

    def _places(self, config: ModelConfig) -> Iterator[tuple[str, tuple[Param, Place]]]:
        """Global name -> (its row, where it is)."""
        local = _layers(self.ranks, self.layout)
        if len(local) != config.num_layers:
            file = self.ranks[0, 0].file
            raise MccError(f"{file}: num_layers = {config.num_layers}, but the stages hold {len(local)} layers")
        for name, row, layer in self.family.table(config):
            if layer is None:
                stage, chunk = (0, 0) if row.where == "first" else (self.layout.pp - 1, self.layout.vpp - 1)
                yield name, (row, (stage, chunk, tree.spelling(row.megatron)))
            else:
                stage, chunk, index = local[layer]
                yield name, (row, (stage, chunk, tree.spelling(row.megatron.format(i=index))))

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        row, (stage, chunk, key) = self._place[name]
        expected = list(shape)
        if row.shape[0] == "V":
            expected[0] = self.meta.padded_vocab_size
        if row.tp_dim is not None:
            expected[row.tp_dim] //= self.layout.tp
        expected[0] *= row.megatron_part[1]
        for rank in range(self.layout.tp):
            found = list(self.ranks[rank, stage].get(chunk, key).shape)
            if found != expected:
                raise MccError(f"{self.ranks[rank, stage].file}: tensor {key} has shape {found}, not {expected}")


class Megatron(Format):
    """Megatron-LM's classic per-rank files, versions 0 to 3."""

    looks_for = f"{tree.TRACKER}, or folders mp_rank_00*/{tree.FILES[0]}"
    layouts = True

    def detect(self, path: Path) -> bool:
        return (path / tree.TRACKER).is_file() or bool(tree.rank_files(path))

    def open(self, path: Path) -> Source:
        return _Megatron(path)

    def write_files(self, source: Source, folder: Path, options: WriteOptions, reporter: Reporter) -> tuple[int, int]:
        meta, config = source.meta, source.meta.config
        version = tree.version_named(options.megatron_version)
        require_megatron(families.get(config.family)(), config, version)
        check_layout(config, options.tp, options.pp, options.vpp)
        stages = even_chunks(config, options.pp, options.vpp)
        padded = config.padded_vocab_size(options.tp)
        wanted = None if options.dtype is None else dtype_named(options.dtype)
        dtype = wanted or max(source.dtypes().values(), key=lambda stored: stored.itemsize)
        size = 0
        root = folder / tree.iteration_folder(meta.iteration)
        with reporter.task("write", options.tp * options.pp, "files") as task:
            for stage in range(options.pp):
                for rank in range(options.tp):
                    flats = [
                        dict(_shards(source, options, layers, (stage, chunk), rank, wanted, version))
                        for chunk, layers in enumerate(stages[stage])
                    ]
                    size += sum(tensor.nbytes for flat in flats for tensor in flat.values())
                    file = root / tree.rank_folder(rank, stage, options.pp) / tree.FILES[0]
                    file.parent.mkdir(parents=True)
                    values = {
                        "args": make_args(meta, padded, options, dtype),
                        "checkpoint_version": version,
                        "iteration": meta.iteration,
                        **dict(zip(tree.model_keys(options.vpp), map(tree.nest, flats), strict=True)),
                    }
                    torch.save(values, file)
                    task.advance()
        copy_tokenizer(meta.tokenizer, folder)
        (folder / tree.TRACKER).write_text(str(meta.iteration or "release") + "\n", encoding="utf-8")
        return len(expected_shapes(config)), size


def is_qkv(row: Param) -> bool:
    """Whether the row is the fused query/key/value projection, whose order depends on the version."""
    return row.shape[0] == "QKV"


def _shards(
    source: Source,
    options: WriteOptions,
    layers: range,
    place: tuple[int, int],
    rank: int,
    wanted: torch.dtype | None,
    version: float,
) -> Iterator[tuple[str, Tensor]]:
    """What one chunk of a rank's file holds: Megatron's key -> this rank's tensor, in storage of its own."""
    config = source.meta.config
    family = families.get(config.family)()
    last = (options.pp - 1, options.vpp - 1)

    def cut(name: str, row: Param) -> Tensor:
        whole = cast(source.read(name), wanted, name)
        if row.shape[0] == "V":
            whole = pad_rows(whole, config.padded_vocab_size(options.tp))
        part = shard(whole, row.tp_dim, rank, options.tp)
        if is_qkv(row):
            part = tree.qkv_to(part, version, config.head_dim)
        return part.clone(memory_format=torch.contiguous_format)  # torch.save writes a view's whole storage

    halves: list[Tensor] = []
    for name, row, layer in family.table(config):
        if layer is not None and layer in layers:
            key = row.megatron.format(i=layer - layers.start)
        elif (row.where == "first" and place == (0, 0)) or (row.where == "last" and place == last):
            key = row.megatron
        else:
            continue
        part, of = row.megatron_part
        halves.append(cut(name, row))
        if part == of - 1:  # the rows of one tensor there stand one after the other in the table
            yield key, halves[0] if of == 1 else torch.cat(halves)
            halves = []
    if family.tied(config) and place == last and last != (0, 0):
        yield tree.HEAD, cut(TOKENS, family.row(TOKENS))


def _open_ranks(folder: Path) -> tuple[dict[tuple[int, int], _Rank], Layout]:
    files = tree.rank_files(folder)
    if not files:
        raise MccError(f"{folder} has no mp_rank_00*/{tree.FILES[0]}", "copy the whole checkpoint again")
    ranks = {place: _Rank(file) for place, file in files.items()}
    args = next(iter(ranks.values())).values.get("args")
    # The arguments tell of ranks whose files are missing at the end; the file names tell of more than the arguments.
    tp = max(getattr(args, "tensor_model_parallel_size", 1), 1 + max(rank for rank, _ in files))
    pp = max(getattr(args, "pipeline_model_parallel_size", 1), 1 + max(stage for _, stage in files))
    for rank in range(tp):
        for stage in range(pp):
            if (rank, stage) not in ranks:
                file = folder / tree.rank_folder(rank, stage, pp) / tree.FILES[0]
                raise MccError(
                    f"missing shard {file}: rank {rank} of TP {tp}, stage {stage} of PP {pp}",
                    "a part of every tensor of this stage is in it",
                )
    vpp = len(ranks[0, 0].chunks)
    for found in ranks.values():
        if len(found.chunks) != vpp:
            raise MccError(f"{found.file} has {len(found.chunks)} model chunks, and {ranks[0, 0].file} has {vpp}")
    return ranks, Layout(tp=tp, pp=pp, vpp=vpp)


def _layers(ranks: dict[tuple[int, int], _Rank], layout: Layout) -> list[tuple[int, int, int]]:
    """Global layer -> (stage, chunk, index there): chunk 0 of every stage, then chunk 1 of every stage, and so on.

    Chunks may hold different numbers of layers.
    """
    found = []
    for chunk, stage in itertools.product(range(layout.vpp), range(layout.pp)):
        keys = (key.split(".layers.") for key in ranks[0, stage].chunks[chunk])
        held = {int(parts[1].partition(".")[0]) for parts in keys if len(parts) == 2}
        found += [(stage, chunk, index) for index in range(1 + max(held, default=-1))]
    return found


def _family(rank: _Rank) -> Family:
    """The family whose tensors are most nearly those of the first rank."""
    generic = {".".join("{i}" if part.isdigit() else part for part in key.split(".")) for key in rank.chunks[0]}
    strays: dict[str, list[str]] = {}
    missing: dict[str, int] = {}
    for name, plugin in families.all():
        names = {tree.spelling(row.megatron) for row in plugin.params} | {tree.HEAD}
        held = {tree.spelling(row.megatron) for row in plugin.params if row.where != "last" and not row.heads}
        strays[name] = sorted(generic - names)
        missing[name] = len(held - generic)
    best = min(strays, key=lambda name: len(strays[name]) + missing[name])
    if strays[best]:
        raise MccError(
            f"{rank.file}: tensor {strays[best][0]} belongs to no family that mcc knows", f"known: {families.names()}"
        )
    return families.get(best)()


def _head(family: Family, last: dict[str, Tensor]) -> dict[str, Any]:
    """The head that the last stage's tensors make, and its classes: the one with the most of them there."""
    there: dict[str, int] = {}
    for head in family.blueprint.heads:
        needed = {row.megatron for row in family.params if row.where == "last" and head in (row.heads or (head,))}
        needed = {tree.spelling(name) for name in needed if not name.startswith("language_model.output_layer")}
        if needed <= last.keys():
            there[head] = len(needed)
    head = max(there, key=lambda name: there[name], default=family.blueprint.heads[0])
    if head != "classification":
        return {"head": head}
    return {"head": head, "num_labels": last["classification_head.weight"].shape[0]}


def _vocabulary(args: object, rows: int, tokenizer: Path | None) -> tuple[int, str]:
    """(true vocabulary, where it is known from): Megatron-LM's own files mostly tell the padded size alone."""
    told = getattr(args, "vocab_size", None)
    if isinstance(told, int) and 0 < told <= rows:
        return told, "args.vocab_size"
    if tokenizer is not None:
        counted = max(token_ids(tokenizer).values()) + 1
        if counted <= rows:
            return counted, TOKENIZER
    return rows, "the padded size: the true one is not told"
