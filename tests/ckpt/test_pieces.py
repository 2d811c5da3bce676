"""Boxes of tensors through a checkpoint: any cut loads any other."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from mcc.ckpt import native
from mcc.ckpt.dcp import DcpFolder
from mcc.ckpt.pieces import Piece
from mcc.core.errors import MccError
from tests.ranks import run_ranks

WHOLE = torch.arange(12 * 5, dtype=torch.float32).view(12, 5)
MANIFEST = {"format": "mcc"}


def _cuts(rank: int, size: int) -> dict[str, Piece]:
    """The same tensor by rows, by columns, by rows of a shard of rows, and held alike by all."""
    shards = size // 2
    shard, part = divmod(rank, 2)  # two ranks share a shard and have some of its rows each
    rows = 12 // shards
    first, last = (0, rows // 3) if part == 0 else (rows // 3, rows)
    mine = WHOLE[shard * rows + first : shard * rows + last].clone()
    column = torch.zeros(12, 0) if rank else WHOLE[:, :5].clone()  # the others have nothing
    return {
        "model.rows": Piece.shard(WHOLE.chunk(size)[rank].clone(), 0, rank, size),
        "model.nested": Piece.shard(mine, 0, shard, shards, rows=(first, rows)),
        "model.columns": Piece(column, (0, 0 if rank == 0 else 5), (12, 5)),
        "model.alike": Piece.of(WHOLE.clone()),
    }


def _save(run):
    rank, size = dist.get_rank(), dist.get_world_size()
    return native.save(run, 1, {**_cuts(rank, size), f"rank.{rank}.x": torch.tensor(float(rank))}, MANIFEST, None)


def _load(folder):
    rank, size = dist.get_rank(), dist.get_world_size()
    wanted = _cuts(rank, size)
    state = {key: Piece(torch.full_like(p.tensor, -1), p.start, p.whole) for key, p in wanted.items()}
    native.load(folder, state)
    for key, piece in state.items():
        assert torch.equal(piece.tensor, wanted[key].tensor), key


@pytest.fixture(scope="module")
def of_four(tmp_path_factory):
    """What four ranks saved."""
    return run_ranks(_save, 4, tmp_path_factory.mktemp("four"))[0]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    return run_ranks(_save, 2, tmp_path_factory.mktemp("two"))[0]


@pytest.mark.parametrize("size", [2, 6])
def test_any_cut_loads_any_other(of_four, size):
    stored = DcpFolder(of_four)
    for key in ("model.rows", "model.nested", "model.columns", "model.alike"):
        assert torch.equal(stored.read(key), WHOLE), key
    run_ranks(_load, size, of_four)


def test_what_ranks_hold_alike_is_stored_once(of_four):
    stored = DcpFolder(of_four)
    assert len(stored._chunks["model.alike"]) == 1
    assert len(stored._chunks["model.rows"]) == 4
    assert float(stored.read("rank.3.x")) == 3


def test_vocabulary_padding_may_differ(of_two):
    for rows in (9, 15):
        target = torch.full((rows, 5), -1.0)
        native.load(of_two, {"model.rows": Piece(target, (0, 0), (rows, 5), any_rows=True)})
        assert torch.equal(target[:12], WHOLE[:rows])
        assert (target[12:] == -1).all()


def test_another_shape_is_refused(of_two):
    with pytest.raises(MccError, match=r"model.rows is \[12, 5\], not \[15, 5\]"):
        native.load(of_two, {"model.rows": torch.zeros(15, 5)})
    with pytest.raises(MccError, match=r"no tensor model\.other"):
        native.load(of_two, {"model.other": torch.zeros(1)})


def test_a_copy_is_not_changed_by_the_original():
    piece = Piece.shard(torch.zeros(2, 2), 1, 1, 3)
    copied = piece.copy()
    piece.tensor.fill_(1)
    assert copied.start == (0, 2) and copied.whole == (2, 6) and not copied.tensor.any()
