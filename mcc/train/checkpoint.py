"""Saving and loading a run: weights, moments, codec state and the position in the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mcc.ckpt import native
from mcc.ckpt.format import open_checkpoint
from mcc.ckpt.manifest import VERSION, read_manifest
from mcc.ckpt.pieces import Piece
from mcc.ckpt.source import expected_shapes
from mcc.core.config import plain
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.models.base.bottleneck import is_trained, sent_channels, trained_places
from mcc.models.base.config import ModelConfig
from mcc.models.base.init import local
from mcc.train.compress.spec import parse_all, wired
from mcc.train.engine import Engine
from mcc.train.parallel.gradients import TIED
from mcc.train.saver import Saver


def save(engine: Engine, tokenizer: str | None, write: Callable[..., Path] = native.save) -> Path:
    """Write the engine's state, and the tokenizer's JSON, as `RUN/iter_*`. Collective.

    `write` is called as `native.save`, and may do it later from a copy (`mcc.train.saver.Saver`).
    """
    config, mesh = engine.config, engine.mesh
    assert config.run.save is not None
    later = isinstance(write, Saver) and write.background
    state: dict[str, Tensor | Piece] = dict(_pieces(engine, tied_copy=False))
    state.update(_held(engine, tied_copy=False))
    for key, codec in engine.codecs().items():
        # Not copied, where nothing changes until it is written: a codec may hold more than the model.
        for name, tensor in (codec.snapshot() if later else codec.state_dict()).items():
            state[f"rank.{_place(engine)}.{key}|{name}"] = replace(Piece.of(tensor), ours=later)
    manifest = {
        "format": "mcc",
        "version": VERSION,
        "model": plain(config.model),
        "iteration": engine.iteration,
        "consumed_samples": engine.progress.samples,
        "layout": {"tp": mesh.tp, "pp": mesh.pp, "dp": mesh.dp},
        "codec_layout": _codec_layout(engine),
        "padded_vocab_size": config.model.padded_vocab_size(mesh.tp),
        "has_optimizer": True,
        "optimizer": engine.update.state(),
        "compress": list(config.compress),
        "held_weights": engine.zero is not None and engine.zero.apart,
    }
    return write(Path(config.run.save), engine.iteration, state, manifest, tokenizer)


def resume(engine: Engine, folder: Path, reporter: Reporter) -> None:
    """Continue from a checkpoint of any layout: the same layout continues bit for bit. Collective.

    Raises:
        UsageError: the checkpoint is of another model, or of another batch size.
        MccError: a file is missing or damaged.
    """
    meta = read_manifest(folder)
    check_same_model(meta.config, engine.config.model, folder)
    if meta.config.seq_length != engine.config.model.seq_length:
        raise UsageError(
            f"{folder} has seq_length = {meta.config.seq_length}, but the run has {engine.config.model.seq_length}",
            "its place in the data is counted in samples of that length",
        )
    run, iteration = engine.config.run, meta.iteration
    consumed, ours = meta.extra.get("consumed_samples"), run.sizes.at(iteration).samples
    if consumed != ours:
        ramp = "" if run.rampup_batch_size is None else f" and rampup_batch_size {run.rampup_batch_size}"
        raise UsageError(
            f"{folder} consumed {consumed} samples in {iteration} steps, but global_batch_size = "
            f"{run.global_batch_size}{ramp} make {ours}",
            "resume with the same",
        )
    if meta.extra.get("has_optimizer") is False:
        raise UsageError(f"{folder} has no optimizer state to resume from", "--load begins anew with its weights")
    optimizer = meta.extra.get("optimizer")
    engine.restore(iteration, optimizer if isinstance(optimizer, dict) else None)
    afresh = _carried(engine, native.stored_weights(folder), reporter)
    _load(engine, folder, meta.padded_vocab_size, bool(meta.extra.get("held_weights")), afresh)
    saved: Any = meta.extra.get("compress", ())
    compress, layout = wired(saved), _codec_layout(engine)
    if meta.extra.get("codec_layout") != layout or _said(compress) != _said(wired(engine.config.compress)):
        if compress and dist.get_rank() == 0:
            sites = ", ".join(text.partition("=")[0] for text in compress)
            what = "the layout, the size of micro-batches or of the vocabulary, or --compress changed"
            reporter.warn(f"{what}: the codecs start afresh, what they remembered at {sites} is dropped")
        return
    _restore_codecs(engine, native.RankState(folder, _place(engine)))


def load_weights(engine: Engine, path: Path, reporter: Reporter = SILENT) -> None:
    """Begin with the weights of a checkpoint of any format. Each rank reads its own tensors.

    Raises:
        UsageError: it is another model.
        MccError: a file is missing or damaged.
    """
    source = open_checkpoint(path)
    new_head = engine.config.finetune.from_weights
    check_same_model(source.meta.config, engine.config.model, path, new_head)
    stored, wanted = source.shapes(), expected_shapes(engine.config.model)
    afresh = _carried(engine, stored, reporter)
    with torch.no_grad():
        for name, parameter in engine.parameters.items():
            if name in afresh:
                continue
            if new_head and stored.get(name) != wanted.get(name, stored.get(name)):
                continue  # a head of the run's own, or one of other classes, begins afresh
            shard = local(
                source.read_as(name, parameter.dtype), engine.family.row(name), engine.config.model, engine.axes
            )
            rows = engine.update.held(name)
            parameter.copy_(shard if rows is None else shard[rows[0] : rows[0] + len(parameter)])
    if engine.zero is not None:
        engine.zero.adopt()


# They change nothing of what the model computes, or how much of its context a sample takes.
_FREE = ("init_std", "make_vocab_size_divisible_by", "hidden_dropout", "attention_dropout", "seq_length")


def check_same_model(theirs: ModelConfig, ours: ModelConfig, where: Path, new_head: bool = False) -> None:
    """Refuse a checkpoint of another model, naming the first difference; with `new_head` the head may be another.

    Raises:
        UsageError: they differ.
    """
    for field in dataclasses.fields(ModelConfig):
        if field.name in _FREE or (new_head and field.name in ("head", "num_labels")):
            continue
        stored, wanted = getattr(theirs, field.name), getattr(ours, field.name)
        if field.name == "ffn_hidden_size":
            stored, wanted = theirs.ffn_size, ours.ffn_size
        if field.name == "max_position_embeddings":
            stored, wanted = theirs.positions, ours.positions
        if stored != wanted:
            raise UsageError(f"{where} has {field.name} = {stored}, but the run has {wanted}")


def _said(compress: Sequence[str]) -> list[str]:
    """What `--compress` says, in whatever order and words."""
    return sorted(map(str, parse_all(compress).values()))


def _codec_layout(engine: Engine) -> dict[str, object]:
    """All that decides which codecs a rank has, and of which shapes."""
    parallel = engine.config.parallel
    names = ["tp", "pp", "vpp", "dp", "cp", "stages", "schedule", "sequence_parallel"]
    names += ["zero", "fully_shard", "embedding_sync"]
    model, run = engine.config.model, engine.config.run
    shapes = {"micro_batch_size": run.micro_batch_size, "vocabulary": model.padded_vocab_size(engine.mesh.tp)}
    return {name: getattr(parallel, name) for name in names} | shapes


def _place(engine: Engine) -> str:
    mesh = engine.mesh
    return f"pp{mesh.pp_rank}_dp{mesh.dp_rank}_cp{mesh.cp_rank}_tp{mesh.tp_rank}"


def _pieces(engine: Engine, tied_copy: bool, leave_out: Collection[str] = ()) -> Iterator[tuple[str, Piece]]:
    """(key, piece) of the weights and of what the optimizer keeps; the tied embedding's copy only if `tied_copy`."""
    kept = engine.update.moments()
    for name, (held, rows) in engine.update.weights().items():
        if name in leave_out or (name == TIED and not engine.pipeline.first and not tied_copy):
            continue
        yield f"model.{name}", _piece(engine, name, held, rows)
        for slot, tensors in kept.items():
            if name in tensors:  # with ZeRO a rank may own no rows
                yield f"optim.{slot}.{name}", _piece(engine, name, tensors[name], engine.update.rows(name))


def _held(engine: Engine, tied_copy: bool) -> Iterator[tuple[str, Piece]]:
    """(key, piece) of what replicas compute with where owners keep other, exact weights."""
    if engine.zero is not None and engine.zero.apart:
        for name, parameter in engine.parameters.items():
            if name != TIED or engine.pipeline.first or tied_copy:
                yield f"held.{name}", _piece(engine, name, parameter.data)


def _piece(engine: Engine, name: str, held: Tensor, rows: tuple[int, int] | None = None) -> Piece:
    row, mesh = engine.family.row(name), engine.mesh
    return Piece.shard(held, row.tp_dim, mesh.tp_rank, mesh.tp, rows, any_rows=row.shape[0] == "V")


def _carried(engine: Engine, stored: Mapping[str, tuple[int, ...]], reporter: Reporter) -> set[str]:
    """Compare the trained codecs' weights that are `stored` with those of this run, on any rank: what begins afresh.

    Stage boundaries are a layout's own: another has other ones.
    """
    theirs = {name: sent_channels(name, shape) for name, shape in stored.items() if is_trained(name)}
    ours = {name: sent for index in range(len(engine.stages)) for name, sent in engine.channels(index).items()}
    afresh = {name for name, sent in ours.items() if theirs.get(name) != sent}
    if dist.get_rank() == 0 and theirs:
        for names, what in (
            (
                [name for name in theirs if name not in ours or name in afresh],
                "weights of {} are dropped: not of this run",
            ),
            (afresh, "{} begin afresh: the checkpoint has no such weights"),
        ):
            places = ", ".join(trained_places(sorted(names)))
            if places:
                reporter.warn(f"trained codecs: {what.format(places)}")
    return afresh


@torch.no_grad()
def _load(engine: Engine, folder: Path, stored_rows: int, held: bool, afresh: Collection[str] = ()) -> None:
    state = dict(_pieces(engine, tied_copy=True, leave_out=afresh))
    if held:
        state.update(
            (key, piece) for key, piece in _held(engine, tied_copy=True) if key.partition(".")[2] not in afresh
        )
    native.load(folder, state)
    config = engine.config.model
    if stored_rows != config.padded_vocab_size(engine.mesh.tp):
        for piece in state.values():
            if piece.any_rows:  # another padding of the vocabulary: rows without a token are zero
                piece.tensor[max(0, config.vocab_size - piece.start[0]) :] = 0
    if engine.zero is not None and engine.zero.apart and not held:
        engine.zero.gather(exact=True)  # of a run that compressed no weights


def _restore_codecs(engine: Engine, saved: native.RankState) -> None:
    by_codec: dict[str, list[str]] = {}
    for full in saved.names:
        key, _, name = full.rpartition("|")
        by_codec.setdefault(key, []).append(name)
    codecs = engine.codecs()
    for key, names in by_codec.items():
        if key in codecs:
            codecs[key].restore(names, lambda name, key=key: saved.read(f"{key}|{name}"))  # type: ignore[misc]
            continue
        # A tensor-parallel stream is made when its shape is first seen: keep its state until then.
        for site, place in (("tp.forward/", engine.axes.forward), ("tp.backward/", engine.axes.backward)):
            if key.startswith(site):
                place.waiting[key.removeprefix(site)] = {name: saved.read(f"{key}|{name}") for name in names}
                break
        else:
            raise MccError(f"the checkpoint has state of codec {key}, which this run does not have")
