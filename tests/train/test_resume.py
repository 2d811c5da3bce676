"""Resumed equals uninterrupted, bit for bit, codec state included; another layout loads the same weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mcc.ckpt import native
from mcc.core.errors import MccError
from mcc.core.events import SILENT
from mcc.train import checkpoint
from tests.ranks import run_ranks
from tests.train.test_identity import COMPRESSED
from tests.train.toy import make_engine, toy_config, train, whole_parameters, with_run


def _uninterrupted(config, steps):
    engine = make_engine(config)
    return train(engine, steps), whole_parameters(engine)


def _train_and_save(config, steps):
    engine = make_engine(config)
    losses = train(engine, steps)
    checkpoint.save(engine, '{"a": "tokenizer"}')
    return losses


def _resume(config, steps):
    engine = make_engine(config)
    checkpoint.resume(engine, native.latest(Path(config.run.save)), SILENT)
    start = engine.iteration
    return start, train(engine, steps), whole_parameters(engine)


TOKENS_DEALT = {"cp": 2, "sequence_parallel": True}


@pytest.mark.parametrize(
    ("compress", "parallel"),
    [((), {}), pytest.param(COMPRESSED, {}, marks=pytest.mark.slow), (COMPRESSED, TOKENS_DEALT)],
    ids=["dense", "compressed", "compressed-tokens-dealt"],
)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, compress, parallel):
    dp = 2 // parallel.get("cp", 1)
    config = with_run(toy_config(2, 2, dp, compress, parallel=parallel), save=str(tmp_path))
    whole = run_ranks(_uninterrupted, 8, config, 7)
    first = run_ranks(_train_and_save, 8, config, 4)
    second = run_ranks(_resume, 8, config, 3)
    for (losses, parameters), before, (start, after, resumed) in zip(whole, first, second, strict=True):
        assert start == 4
        assert before + after == losses
        assert all(torch.equal(parameters[name], resumed[name]) for name in parameters)


@pytest.mark.parametrize("layout", [(1, 1, 1), pytest.param((4, 1, 1), marks=pytest.mark.slow), (1, 4, 1), (2, 1, 2)])
def test_any_layout_resumes_any_other(tmp_path, layout):
    """The padded vocabulary differs between these layouts, too."""
    config = with_run(toy_config(2, 2, 2), save=str(tmp_path))
    run_ranks(_train_and_save, 8, config, 3)
    same = run_ranks(_resume, 8, config, 3)[0]
    tp, pp, dp = layout
    other = run_ranks(_resume, tp * pp * dp, with_run(toy_config(tp, pp, dp), save=str(tmp_path)), 3)[0]
    assert other[1] == pytest.approx(same[1], abs=1e-5)
    for name, value in same[2].items():
        assert (other[2][name] - value).norm() / value.norm() < 1e-4, name


def _resume_warnings(config):
    warnings = []
    engine = make_engine(config)
    reporter = SimpleNamespace(warn=warnings.append, note=lambda text: None)
    checkpoint.resume(engine, native.latest(Path(config.run.save)), reporter)
    return warnings, engine.axes.forward.waiting


def test_codecs_start_afresh_where_tokens_are_dealt_otherwise(tmp_path):
    """Sequence parallelism sums halves: a codec's state of whole sums is none of theirs."""
    compress = ("tp.forward=quantize:bits=6,feedback=on",)
    config = with_run(toy_config(2, 1, 1, compress), save=str(tmp_path))
    run_ranks(_train_and_save, 2, config, 2)
    assert run_ranks(_resume_warnings, 2, config)[0][0] == []
    dealt = with_run(toy_config(2, 1, 1, compress, parallel={"sequence_parallel": True}), save=str(tmp_path))
    (warnings, waiting), _ = run_ranks(_resume_warnings, 2, dealt)
    assert "codecs start afresh" in warnings[0]
    assert not waiting


@pytest.mark.parametrize("size", [1, 4])
def test_codecs_start_afresh_where_micro_batches_have_other_sizes(tmp_path, size):
    """What was lost of one sample is not another's."""
    compress = ("pp.backward=quantize:bits=4,feedback=on", "pp.forward=powersgd:rank=2,per=sample")
    config = with_run(toy_config(1, 2, 1, compress), save=str(tmp_path), micro_batch_size=2)
    run_ranks(_train_and_save, 2, config, 2)
    assert run_ranks(_resume_warnings, 2, config)[0][0] == []
    ((warning,), _), _ = run_ranks(_resume_warnings, 2, with_run(config, micro_batch_size=size))
    assert "codecs start afresh" in warning
    _, losses, _ = run_ranks(_resume, 2, with_run(config, micro_batch_size=size), 2)[0]
    assert len(losses) == 2


def test_the_order_and_the_words_of_compress_do_not_matter(tmp_path):
    compress = ("pp.forward=quantize:bits=2,feedback=on", "pp.backward=quantize:bits=8")
    config = with_run(toy_config(1, 2, 1, compress), save=str(tmp_path))
    run_ranks(_train_and_save, 2, config, 2)
    said = ("pp.backward=quantize", "pp.forward=quantize:feedback=true,bits=2")
    again = with_run(toy_config(1, 2, 1, said), save=str(tmp_path))
    assert run_ranks(_resume_warnings, 2, again)[0][0] == []


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path):
    config = with_run(toy_config(), save=str(tmp_path))
    run_ranks(_train_and_save, 1, config, 2)
    (data,) = native.latest(tmp_path).glob("*.distcp")
    data.write_bytes(data.read_bytes()[:100])
    (what,) = run_ranks(_resume_error, 1, config)
    assert "cannot read checkpoint" in what
    assert "\n" not in what


def _resume_error(config):
    with pytest.raises(MccError) as caught:
        _resume(config, 1)
    return caught.value.what


def test_unfinished_checkpoints_are_not_taken(tmp_path):
    config = with_run(toy_config(), save=str(tmp_path))
    assert native.latest(tmp_path) is None
    run_ranks(_train_and_save, 1, config, 2)
    folder = native.latest(tmp_path)
    assert folder.name == "iter_0000002"
    (folder / native.MANIFEST).unlink()
    with pytest.raises(MccError, match="names a checkpoint that is not there"):
        native.latest(tmp_path)
