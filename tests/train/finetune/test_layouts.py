"""Fine-tuning gives the same losses and metrics in every layout."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcc.data.tokens.vocabulary import word_piece
from mcc.models.base.config import ModelConfig
from mcc.train.config import OptimConfig, ParallelConfig, RunConfig, TrainConfig
from mcc.train.data import open_data
from mcc.train.engine import Engine
from mcc.train.finetune.config import FinetuneConfig
from mcc.train.finetune.resolve import resolve
from mcc.train.layout import make_mesh
from tests.ranks import run_ranks

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnop"]
MODEL = ModelConfig(
    family="bert",
    num_layers=2,
    hidden_size=16,
    num_attention_heads=4,
    seq_length=16,
    vocab_size=len(WORDS),
    make_vocab_size_divisible_by=8,
    hidden_dropout=0.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 pairs to learn and 10 to score: whether the second text begins with an `a`; and questions likewise."""
    folder = tmp_path_factory.mktemp("task")
    generator = np.random.default_rng(1)
    for name, count in (("train", 21), ("dev", 10)):
        pairs, questions = ["index\tsentence1\tsentence2\tlabel"], []
        for i in range(count):
            first, second = (" ".join(generator.choice(list("bcdefgh"), generator.integers(2, 9))) for _ in range(2))
            label = i % 3 == 0
            pairs.append(f"{i}\t{first}\t{'a ' * label}{second}\t{('entailment', 'not_entailment')[label]}")
            choices = [second, f"a {second}", first]
            questions.append(json.dumps({"context": first, "choices": choices[::-1] if label else choices, "label": 1}))
        (folder / f"{name}.tsv").write_text("\n".join(pairs) + "\n", encoding="utf-8")
        (folder / f"{name}.jsonl").write_text("\n".join(questions) + "\n", encoding="utf-8")
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    return folder


def tuned(config: TrainConfig, tokenizer: str) -> tuple[list[float], dict[str, float]]:
    """The losses of the steps, and what the scored examples give after them."""
    torch.manual_seed(0)
    mesh = make_mesh(config)
    data = open_data(config, tokenizer)
    engine = Engine(config, mesh, data.rows)
    losses = []
    while engine.iteration < config.run.train_iters:
        at = engine.progress
        losses.append(engine.step(data.train.batch(at.samples, at.batch, mesh.dp_rank, mesh.dp)).loss)
    return losses, engine.evaluate(data.evaluations[0])


def config_of(folder: Path, task: str, layout: dict[str, int]) -> TrainConfig:
    labels = {"labels": "A,B,C"} if task == "multiple-choice" else {}
    return resolve(
        TrainConfig(
            model=MODEL,
            parallel=ParallelConfig(**{"dp": 1, **layout}),
            optim=OptimConfig(lr=3e-3, adam_eps=1e-6),
            run=RunConfig(micro_batch_size=1, global_batch_size=4, seed=3),
            finetune=FinetuneConfig(task=task, task_data=str(folder), epochs=1, task_metrics="accuracy,f1", **labels),
        )
    )


# Dropout draws other numbers for other shards of the tokens, so context-parallel ranks are compared without it.
LAYOUTS: dict[float, dict[str, dict[str, int]]] = {
    0.1: {"one": {}, "tp2-pp2": {"tp": 2, "pp": 2}, "dp2": {"dp": 2}},
    0.0: {"one": {}, "cp2": {"cp": 2}},
}


@pytest.mark.parametrize("dropout", LAYOUTS)
@pytest.mark.parametrize("task", ["rte", "multiple-choice"])
def test_layouts_are_equal(folder: Path, task: str, dropout: float) -> None:
    tokenizer = word_piece(folder / "vocab.txt", lowercase=True).to_str()
    found: dict[str, Any] = {}
    for name, layout in LAYOUTS[dropout].items():
        config = config_of(folder, task, layout)
        # Weights large enough for attention to matter.
        model = dataclasses.replace(config.model, hidden_dropout=dropout, attention_dropout=dropout, init_std=0.3)
        config = dataclasses.replace(config, model=model)
        results = run_ranks(tuned, math.prod(layout.values()), config, tokenizer)
        assert all(result == results[0] for result in results), "every rank knows the figures"
        found[name] = results[0]
    losses, scores = found["one"]
    assert len(losses) == 6 and set(scores) == {"loss", "accuracy", "f1"}
    for other, (theirs, their_scores) in found.items():
        assert theirs == pytest.approx(losses, abs=1e-5), other
        assert their_scores == pytest.approx(scores, abs=1e-5), other


def test_it_learns(folder: Path) -> None:
    tokenizer = word_piece(folder / "vocab.txt", lowercase=True).to_str()
    config = config_of(folder, "rte", {})
    longer = dataclasses.replace(
        config,
        optim=OptimConfig(lr=1e-2, lr_warmup_iters=20, lr_decay_style="constant"),
        model=dataclasses.replace(config.model, hidden_dropout=0.0, init_std=0.1),
        run=dataclasses.replace(config.run, train_iters=150),
    )
    losses, scores = run_ranks(tuned, 1, longer, tokenizer)[0]
    assert sum(losses[-5:]) / 5 < 0.3 < losses[0]
    assert scores["accuracy"] >= 0.8
