"""`mcc train --load` and `mcc eval` take every checkpoint format as it is: the same losses as from our own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mcc.ckpt.format import WriteOptions, formats
from mcc.core.events import SILENT
from mcc.eval.perplexity import perplexity
from mcc.train.config import TrainConfig
from mcc.train.loop import start
from mcc.train.prepare import prepare
from tests.ckpt.cells import lay_out
from tests.ckpt.models import SMALL, InMemory, byte_tokenizer
from tests.ranks import run_ranks
from tests.train.job import job_config, tokens
from tests.train.toy import make_engine, toy_batch

NATIVE = "mcc"
# Not every format tells how far the vocabulary is padded, which orders the sums over it: two steps of float32.
ROUNDING = 2**-22


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in every format that there is, and in those with layouts cut for four ranks too."""
    folder, model = tmp_path_factory.mktemp("formats"), InMemory(SMALL, slots=("exp_avg", "exp_avg_sq"), iteration=3)
    found = {}
    for name, plugin in formats.all():
        found[name] = folder / name / "out"
        found[name].parent.mkdir()
        lay_out(name, model, found[name])
        if plugin.layouts:
            found[f"{name}, cut"] = folder / f"{name}-cut"
            plugin().write(model, found[f"{name}, cut"], WriteOptions(tp=2, pp=2))
    assert set(found) >= {NATIVE, "hf", "megatron", "megatron-core", "deepspeed", "acsgd"}
    return found


def first_losses(configs: Sequence[TrainConfig]) -> list[float]:
    """The loss of the first step of each run, which begins as `mcc train` does."""
    losses = []
    for config in configs:
        engine = make_engine(config)
        start(engine, None, SILENT)
        assert engine.iteration == 0  # the weights, and nothing else of the run
        mesh = engine.mesh
        losses.append(engine.step(toy_batch(0, mesh.dp_rank, mesh.dp, config.model)).loss)
    return losses


@pytest.mark.parametrize("parallel", [{}, {"tp": 2}, {"pp": 2}], ids=str)
def test_training_begins_from_any(tmp_path: Path, checkpoints: dict[str, Path], parallel: dict[str, int]) -> None:
    world, data = 2 if parallel else 1, tokens(tmp_path)
    configs = [
        prepare(job_config(data, None, parallel=parallel, load=str(path), global_batch_size=8), world)[0]
        for path in checkpoints.values()
    ]
    ranks = run_ranks(first_losses, world, configs)
    found = dict(zip(checkpoints, ranks[-1], strict=True))
    assert found == dict.fromkeys(found, pytest.approx(found[NATIVE], rel=ROUNDING))
    assert 5 < found[NATIVE] < 20  # random weights of this size: no better than chance, which is log 301 = 5.7


def test_evaluation_takes_any(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    text, tokenizer = tmp_path / "text.txt", byte_tokenizer(tmp_path / "tokenizer.json")
    text.write_text("the cat sat on the mat, and the other cat sat there too\n" * 2, encoding="utf-8")
    found = {
        name: perplexity(path, text, overlap=16, tokenizer=tokenizer, device="cpu")
        for name, path in checkpoints.items()
    }
    losses = {name: report.loss for name, report in found.items()}
    assert losses == dict.fromkeys(losses, pytest.approx(losses[NATIVE], rel=ROUNDING))
    assert found[NATIVE].scored_tokens > 20
