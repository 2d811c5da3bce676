"""What codecs are told: the same step, epoch and samples on every stage; in evaluation, that there is no training."""

from __future__ import annotations

import torch

from mcc.train.compress.codec import Context
from mcc.train.compress.collective import CompressedSum
from mcc.train.engine import Engine
from mcc.train.layout import make_mesh
from mcc.train.sources.source import Evaluation, Source
from tests.ranks import run_ranks
from tests.train.toy import toy_batch, toy_config


class _Toy(Source):
    """Two samples an epoch step, of eight that come again and again."""

    seq_length, distinct = 16, 8

    def __len__(self):
        return 8

    def take(self, samples):
        return {name: tensor[list(samples)] for name, tensor in toy_batch(0, 0, 1).items()}


def _contexts(config):
    engine = Engine(config, make_mesh(config), epoch_samples=8)
    mesh, found = engine.mesh, []
    engine.evaluate(Evaluation("heldout", _Toy(), 8))
    found.append(engine.clock.context(0))
    for step in range(2):
        batch = toy_batch(step, mesh.dp_rank, mesh.dp)
        batch["ids"] = torch.arange(10, 14) + 4 * mesh.dp_rank
        engine.step(batch)
        engine.clock.step -= 1  # as codecs saw it
        found += [engine.clock.context(m) for m in range(2)] + [engine.clock.context()]
        engine.clock.step += 1
    assert "ids" in batch  # the caller's own
    return mesh.pp_rank, mesh.dp_rank, found


def test_every_stage_is_told_the_same():
    config = toy_config(1, 2, 2, micro_batch_size=2)
    for _, replica, found in run_ranks(_contexts, 4, config):
        assert found[0] == Context(training=False)
        first = 10 + 4 * replica
        for step, (one, two, none) in enumerate((found[1:4], found[4:7])):
            assert one == Context(step=step, microbatch=0, epoch=step, samples=(first, first + 1))
            assert two == Context(step=step, microbatch=1, epoch=step, samples=(first + 2, first + 3))
            assert none == Context(step=step, epoch=step)


def _summed(config):
    """What the sums of tensor parallelism are told, by site, in order."""
    engine = Engine(config, make_mesh(config), epoch_samples=8)
    found = {"tp.forward": [], "tp.backward": []}
    call = CompressedSum.__call__

    def recorded(self, x, context):
        found[self.group.site].append((self.whole.key, context.microbatch, context.samples))
        return call(self, x, context)

    CompressedSum.__call__ = recorded
    engine.step(toy_batch(0, 0, 1) | {"ids": torch.arange(10, 18)})
    return found


def test_every_sum_is_told_its_microbatch():
    """Two layers a stage with two sums each, once for each of four micro-batches, forward and backward."""
    config = toy_config(2, 2, 1, ("tp.forward=none", "tp.backward=none"), micro_batch_size=2)
    for found in run_ranks(_summed, 4, config):
        for sums in found.values():
            streams = {key for key, *_ in sums}
            wanted = {(key, m, (10 + 2 * m, 11 + 2 * m)) for key in streams for m in range(4)}
            assert len(sums) == len(wanted) >= 16 and set(sums) == wanted
