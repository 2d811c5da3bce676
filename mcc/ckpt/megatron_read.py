"""A Megatron-LM checkpoint opened as a `Source`: shards joined, chunks of layers put in order, optimizer state too."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mcc.ckpt import megatron_tree as tree
from mcc.ckpt.megatron_args import config_from_args, misfits, released_args
from mcc.ckpt.megatron_optim import DISTRIBUTED, RankOptimizer, schedule_of
from mcc.ckpt.source import Layout, Meta, Source, expected_shapes
from mcc.ckpt.tokenizer_files import TOKENIZER, token_ids
from mcc.ckpt.torch_read import FileTensor, open_torch
from mcc.core.errors import MccError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import TOKENS, Family, Param, families

if TYPE_CHECKING:
    from torch import Tensor

# Where a tensor is: pipeline stage, chunk of layers there, key in the chunk.
Place = tuple[int, int, str]


class _Rank:
    """One rank's file: for each of its chunks of layers the flat tensors, still in the file; and the rest."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.values: dict[str, Any] = open_torch(file)
        models = tree.chunks(self.values) if isinstance(self.values, dict) else []
        if not models:
            raise MccError(f"{file} has no model")
        self.chunks = [tree.flatten(model) for model in models]
        self.optimizer: RankOptimizer | None = None
        if self.values.get("optimizer") or any((file.parent / name).is_file() for name in DISTRIBUTED):
            self.optimizer = RankOptimizer(self.values.get("optimizer"), self.chunks, file)

    def get(self, chunk: int, key: str) -> FileTensor:
        if key not in self.chunks[chunk]:
            raise MccError(f"{self.file} has no tensor {tree.in_chunk(chunk, len(self.chunks))}{key}")
        return self.chunks[chunk][key]


class MegatronSource(Source):
    """The checkpoint at `path`: a folder with a tracker, or an iteration's.

    Raises:
        MccError: a file is missing, truncated or malformed, or its model is none that a family has.
    """

    def __init__(self, path: Path) -> None:
        folder = tree.tracked(path)
        self.ranks, self.layout = _open_ranks(folder)
        first = self.ranks[0, 0]
        self.version = float(first.values.get("checkpoint_version", 0))
        self.family = _family(first)
        args = first.values.get("args")
        if args is None:
            shapes = {key: tensor.shape for key, tensor in first.chunks[0].items()}
            args = released_args(self.family.name, len(_layers(self.ranks, self.layout)), shapes)
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
                **self._optimizer_facts(),
            },
            unread=self._unread(),
        )
        self._shapes = expected_shapes(config)
        self._place = dict(self._places(config))
        for name, shape in self._shapes.items():
            self._check(name, shape)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: self._part(0, name).dtype for name in self._place}

    def read(self, name: str) -> Tensor:
        row, (stage, chunk, key) = self._place[name]
        return self._join(name, [self.ranks[rank, stage].get(chunk, key) for rank in self._holders(row)])

    def slots(self) -> tuple[str, ...]:
        return self._slots

    def read_slot(self, slot: str, name: str) -> Tensor:
        if slot not in self._slots:
            return super().read_slot(slot, name)
        row, (stage, chunk, key) = self._place[name]
        states = (self.ranks[rank, stage].optimizer for rank in self._holders(row))
        return self._join(name, [state.get(chunk, key, slot) for state in states if state is not None])

    def file_of(self, name: str) -> Path | None:
        if name not in self._place:
            return None
        _, (stage, _, _) = self._place[name]
        return self.ranks[0, stage].file

    def _holders(self, row: Param) -> range:
        """The tensor-parallel ranks whose files have what is not in rank 0's."""
        return range(self.layout.tp if row.tp_dim is not None else 1)

    def _part(self, rank: int, name: str) -> FileTensor:
        _, (stage, chunk, key) = self._place[name]
        return self.ranks[rank, stage].get(chunk, key)

    def _join(self, name: str, parts: list[FileTensor]) -> Tensor:
        """The whole of a tensor in our layout, from each rank's part of it: read straight into its place."""
        row, _ = self._place[name]
        part, of = row.megatron_part
        shape = self._shapes[name]
        reorder = row.shape[0] == "QKV" and self.version < 2
        whole = torch.empty(shape, dtype=parts[0].dtype)
        done = 0
        for shard in parts:
            if shard.dtype != whole.dtype:
                raise MccError(f"{shard.file}: tensor {name} is {shard.dtype}, and another rank's {whole.dtype}")
            rows = shard.shape[0] // of
            dim = row.tp_dim or 0
            wide = rows if dim == 0 else shard.shape[dim]
            wide = min(wide, shape[dim] - done)  # without the vocabulary's padding
            if wide <= 0:
                break
            place = whole.narrow(dim, done, wide)
            shard.read_into(place, (part * rows, part * rows + (wide if dim == 0 else rows)))
            if reorder:
                place.copy_(tree.qkv_from(place, self.version, self.meta.config.head_dim))
            done += wide
        return whole

    def _unread(self) -> tuple[str, ...]:
        reasons = {rank.optimizer.unread for rank in self.ranks.values() if rank.optimizer is not None}
        return tuple(f"optimizer state ({reason})" for reason in sorted(reasons) if reason)

    def _optimizer_facts(self) -> dict[str, Any]:
        """What of the optimizer is no tensor, as our own checkpoints keep it."""
        states = [rank.optimizer for rank in self.ranks.values()]
        slots = {() if state is None or state.unread else state.slots for state in states}
        self._slots: tuple[str, ...] = next(iter(slots)) if len(slots) == 1 else ()
        first = self.ranks[0, 0]
        if not self._slots or first.optimizer is None:
            return {}
        state = first.optimizer
        facts = {
            "name": "adam" if "exp_avg" in self._slots else "sgd",
            "updates": state.updates,
            "loss_scale": state.scaler,
            "group": state.group,
            "schedule": schedule_of(first.values),
        }
        return {"has_optimizer": True, "optimizer": facts}

    def _places(self, config: ModelConfig) -> Iterator[tuple[str, tuple[Param, Place]]]:
        """Global name -> (its row, where it is)."""
        local = _layers(self.ranks, self.layout)
        if len(local) != config.num_layers:
            file = self.ranks[0, 0].file
            raise MccError(f"{file}: num_layers = {config.num_layers}, but the stages hold {len(local)} layers")
        for name, row, layer in self.family.table(config):
            where, key = tree.place_of(row, layer, config.num_layers)
            if isinstance(where, int):
                stage, chunk, index = local[where]
                yield name, (row, (stage, chunk, tree.spelling(key.format(i=index))))
            else:
                stage, chunk = (0, 0) if where == "first" else (self.layout.pp - 1, self.layout.vpp - 1)
                yield name, (row, (stage, chunk, tree.spelling(key)))

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


def _open_ranks(folder: Path) -> tuple[dict[tuple[int, int], _Rank], Layout]:
    files = tree.rank_files(folder)
    if not files:
        raise MccError(f"{folder} has no mp_rank_00*/{tree.FILES[0]}", "copy the whole checkpoint again")
    ranks = {place: _Rank(file) for place, file in files.items()}
    args = next(iter(ranks.values())).values.get("args")
    # The arguments tell of ranks whose files are missing at the end; the file names tell of more than the arguments.
    told = getattr(args, "tensor_model_parallel_size", getattr(args, "model_parallel_size", 1))  # the older name
    tp = max(told or 1, 1 + max(rank for rank, _ in files))
    pp = max(getattr(args, "pipeline_model_parallel_size", 1) or 1, 1 + max(stage for _, stage in files))
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
        names = {named for row in plugin.params for named in tree.names_of(row)} | {tree.HEAD}
        held = {tree.name_of(row) for row in plugin.params if row.where != "last" and not row.heads}
        strays[name] = sorted(generic - names)
        missing[name] = len(held - generic)
    args = rank.values.get("args")
    told = getattr(args, "mcc_family", None)  # ours say it: of Llama's tensors there are several

    def distance(name: str) -> tuple[object, ...]:
        return len(strays[name]) + missing[name], misfits(families.get(name), args), name != told

    best = min(strays, key=distance)
    if strays[best]:
        raise MccError(
            f"{rank.file}: tensor {strays[best][0]} belongs to no family that mcc knows", f"known: {families.names()}"
        )
    return families.get(best)()


def _head(family: Family, last: dict[str, FileTensor]) -> dict[str, Any]:
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
