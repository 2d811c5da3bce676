"""Fine-tuned tasks: metrics, and the command on a tiny BERT against the model itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mcc.ckpt.format import formats
from mcc.cli.main import main
from mcc.core.errors import UsageError
from mcc.eval.finetuned import metric
from mcc.models.base.config import ModelConfig
from mcc.models.base.extras import Extras
from mcc.train.finetune.metrics import METRICS
from tests.ckpt.models import InMemory

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran"]


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    file = tmp_path_factory.mktemp("bert") / "tokenizer.json"
    backend.save(str(file))
    return file


def checkpoint(folder: Path, head: str, labels: int = 2) -> tuple[Path, InMemory]:
    config = ModelConfig(
        family="bert", head=head, num_labels=labels, num_layers=1, hidden_size=16, num_attention_heads=2,
        vocab_size=len(WORDS), seq_length=16,
    )  # fmt: skip
    source = InMemory(config)
    formats.get("mcc-safetensors")().write(source, folder)
    return folder, source


@pytest.mark.parametrize("name", sorted(METRICS))
def test_metrics_are_those_of_training(name: str) -> None:
    rng = np.random.default_rng(0)
    numbers = name in ("pearson", "spearman")
    labels = rng.normal(size=50).round(1).astype(np.float32) if numbers else rng.integers(0, 2, 50)
    outputs = rng.normal(size=(50, 1 if numbers else 2))
    predicted = outputs[:, 0] if numbers else outputs.argmax(-1)
    assert metric(name, outputs, labels) == pytest.approx(METRICS[name](predicted, labels), abs=1e-6)
    assert metric(name, np.zeros_like(outputs), labels * 0) == pytest.approx(
        METRICS[name](predicted * 0, labels * 0), abs=1
    )
    with pytest.raises(UsageError, match="unknown metric 'bleu'"):
        metric("bleu", outputs, labels)


def test_mrpc(tokenizer_json: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = checkpoint(tmp_path / "model", "classification")
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS[4:], size=length)) for length in rng.integers(1, 6, 40)]
    records = [
        {"sentence1": a, "sentence2": b, "label": i % 2}
        for i, (a, b) in enumerate(zip(texts[:20], texts[20:], strict=True))
    ]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    words = ["eval", "task", str(folder), "--task", "mrpc", "--task-data", str(tmp_path / "dev.jsonl")]
    words += ["--tokenizer", str(tokenizer_json), "--out", str(tmp_path / "out")]
    assert main([*words, "--batch-tokens", "60", "--json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["results"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples_mrpc.jsonl").read_text().splitlines()]
    assert (part["examples"], len(rows), set(part["metrics"])) == (20, 20, {"accuracy", "f1"})
    assert [row["label"] for row in rows] == [record["label"] for record in records]
    from mcc.ckpt.load import load_model

    model = load_model(folder).model
    for row, record in list(zip(rows, records, strict=True))[:5]:
        first, second = ([WORDS.index(word) for word in record[key].split()] for key in ("sentence1", "sentence2"))  # type: ignore[attr-defined]
        ids = [1, *first, 2, *second, 2]
        types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        with torch.no_grad():
            expected = model(torch.tensor([ids]), Extras(token_types=torch.tensor([types])))
        assert row["outputs"] == pytest.approx(expected[0].tolist(), abs=1e-5)
    right = [int(np.argmax(row["outputs"]) == row["label"]) for row in rows]
    assert part["metrics"]["accuracy"] == pytest.approx(np.mean(right))
    assert main([*words[:4], "mnli", *words[5:]]) == 1
    assert "tells 2 classes apart, but the task has 3" in capsys.readouterr().err
    assert main([*words[:4], "mrpcc", *words[5:]]) == 2
    assert "did you mean 'mrpc'" in capsys.readouterr().err


def test_race_and_a_model_of_another_head(
    tokenizer_json: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = checkpoint(tmp_path / "model", "multiple-choice")
    record = {"article": "the cat sat", "questions": ["a _ ?"] * 3, "options": [["cat", "dog", "mat", "sat"]] * 3}
    (tmp_path / "dev.jsonl").write_text(json.dumps({**record, "answers": ["A", "B", "A"]}) + "\n")
    words = ["eval", "task", str(folder), "--task", "race", "--task-data", str(tmp_path / "dev.jsonl")]
    words += ["--tokenizer", str(tokenizer_json)]
    assert main([*words, "--json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["results"]
    assert part["examples"] == 3 and part["metrics"]["accuracy"] in (0.0, pytest.approx(1 / 3), pytest.approx(2 / 3))
    other, _ = checkpoint(tmp_path / "other", "classification")
    assert main(["eval", "task", str(other), *words[3:]]) == 1
    assert "has the head classification, but the task needs multiple-choice" in capsys.readouterr().err
