"""The recipes of CONTRIBUTING.md: each example is a plug-in that works."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from mcc.core.plugins import Kind

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))


def plugin(kind: Kind[Any], name: str) -> type[Any]:
    """The one class of the recipe's file, found as mcc finds it."""
    path = f"{kind.package.replace('.', '/')}/{name.replace('-', '_')}.py"
    module = types.ModuleType(path.removesuffix(".py").replace("/", "."))
    sys.modules[module.__name__] = module
    try:
        exec(compile(BLOCKS[path], path, "exec"), module.__dict__)
        return kind._only_class(module)
    finally:
        del sys.modules[module.__name__]


def test_codec() -> None:
    import torch

    from mcc.train.compress.codec import Context, TensorSpec, codecs, pack, unpack

    found = plugin(codecs, "bf16")
    codec = found(found.Options(), TensorSpec((3, 5), torch.float32), "key")
    x = torch.randn(3, 5)
    message = pack(codec.encode(x, Context()))
    assert message.numel() == codec.payload_bytes == x.nbytes // 2
    y = codec.decode(unpack(message, codec.payload()), Context())
    assert ((y - x).abs() <= x.abs() * 2**-8).all()


def test_filter() -> None:
    from mcc.core.config import build
    from mcc.core.errors import UsageError
    from mcc.data.filtering import FILTERS, Rejected

    found = plugin(FILTERS, "shouting")
    assert found().keep("BUY NOW") == Rejected("100% capitals, more than 50%")
    assert found().keep("Buy now, 50% OFF!") == "Buy now, 50% OFF!"
    assert found(build(found.Options, {"share": 0.1})).keep("Buy now") == Rejected("17% capitals, more than 10%")
    with pytest.raises(UsageError, match=r"shouting: share = 2\.0 is not between 0 and 1"):
        build(found.Options, {"share": 2.0})


def test_stage(tmp_path: Path) -> None:
    from mcc.data.base.job import run
    from mcc.data.base.records import ReadConfig
    from mcc.data.pipelines.stage import STAGES, Call

    stage = plugin(STAGES, "thinning")
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(50)) + "[]\n")
    config = stage.Config(every=20, read=ReadConfig(max_errors=1))
    report = run(stage().job(Call(inputs=(str(path),), output=output), config))
    assert (report.documents_in, report.documents_out, report.bad_lines) == (50, 3, 1)
    kept = [json.loads(line)["text"] for line in output.read_text().splitlines()]
    assert kept == ["document 0", "document 20", "document 40"]
    assert "not a JSON object" in (tmp_path / "out.rejects.jsonl").read_text()


def test_task_file(tmp_path: Path) -> None:
    from mcc.data.ngrams.task_texts import TASK_FILES

    path = tmp_path / "arc.jsonl"
    path.write_text('{"question": {"stem": "Why?", "choices": []}}\n{"question": "How?"}\n')
    assert list(plugin(TASK_FILES, "arc")().texts(str(path))) == ["Why?", "How?"]


def test_format(tmp_path: Path) -> None:
    import torch

    from mcc.ckpt.format import formats
    from mcc.ckpt.source import Meta, Source, expected_shapes
    from mcc.models.base.config import ModelConfig

    class Random(Source):
        def __init__(self) -> None:
            self.meta = Meta(config=ModelConfig(num_layers=1, hidden_size=8, num_attention_heads=2, vocab_size=10))
            self.all = {name: torch.randn(shape) for name, shape in expected_shapes(self.meta.config).items()}

        def shapes(self) -> dict[str, tuple[int, ...]]:
            return {name: tuple(tensor.shape) for name, tensor in self.all.items()}

        def dtypes(self) -> dict[str, torch.dtype]:
            return {name: tensor.dtype for name, tensor in self.all.items()}

        def read(self, name: str) -> torch.Tensor:
            return self.all[name]

    source, format = Random(), plugin(formats, "torch-dict")()
    report = format.write(source, tmp_path / "out")
    assert (report.format, report.tensors) == ("torch-dict", len(source.all))
    assert format.detect(tmp_path / "out")
    opened = format.open(tmp_path / "out")
    assert opened.meta.config == source.meta.config
    assert opened.shapes() == source.shapes()
    for name, tensor in opened.tensors():
        assert torch.equal(tensor, source.all[name])


def test_task(tmp_path: Path) -> None:
    from mcc.core.errors import MccError
    from mcc.eval.task import read_documents, tasks

    task = plugin(tasks, "boolq")()
    file = tmp_path / "dev.jsonl"
    record = {"passage": "Snow is white.", "question": "is snow white", "answer": True}
    file.write_text(json.dumps(record) + "\n")
    (document,) = read_documents(task, file)
    assert task.prompt(document) == "Snow is white.\nQuestion: is snow white?\nAnswer:"
    assert task.choices(document)[task.target(document)] == "yes"
    file.write_text(json.dumps({**record, "answer": "maybe"}) + "\n")
    with pytest.raises(MccError, match=r"dev.jsonl:1: 'answer' must be true or false, not 'maybe'"):
        read_documents(task, file)


def test_model_family() -> None:
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    from mcc.models.base.axes import Axes
    from mcc.models.base.config import ModelConfig
    from mcc.models.base.family import families
    from mcc.models.base.forms import FORMS, join

    family = plugin(families, "xlm-roberta")()
    config = ModelConfig(
        family="xlm-roberta", num_layers=2, hidden_size=16, num_attention_heads=4, seq_length=8, vocab_size=128
    )
    assert family.from_hf_config(family.to_hf_config(config)) == config
    theirs = XLMRobertaForMaskedLM(XLMRobertaConfig(**family.to_hf_config(config)))
    state = theirs.eval().state_dict()
    ours = family.build(config, Axes(), range(2)).eval()
    ours.load_state_dict(
        {
            name: join([state[key] for key in row.hf_names(layer)], FORMS[row.hf_form], config)
            for name, row, layer in family.table(config)
        }
    )
    tokens = torch.arange(8)[None] * 3
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)


def test_finetuning_task(tmp_path: Path) -> None:
    from mcc.train.finetune.config import FinetuneConfig
    from mcc.train.finetune.files import Examples, scored_files, training_files
    from mcc.train.finetune.task import task_families

    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text('{"question": "is it", "passage": "It is.", "answer": true}\n')
    config = FinetuneConfig(task="boolq", task_data=str(tmp_path))
    task = plugin(task_families, "boolq")().task("boolq", config)
    assert list(scored_files(task, config)) == ["valid"]
    example = Examples(training_files(task, config), task)[0]
    assert (example.rows, example.label) == ((("is it", "It is."),), 1)


def test_objective() -> None:
    import torch

    from mcc.models.base.axes import Axes
    from mcc.models.base.config import ModelConfig
    from mcc.train.objective import objectives

    objective, model = plugin(objectives, "ordinal")(), ModelConfig()
    batch = {"labels": torch.tensor([0, 2]), "label_weights": torch.ones(2)}
    output = torch.tensor([[100.0, 0.0, 0.0], [100.0, 0.0, 0.0]])
    assert objective.loss(output, batch, Axes(), model).tolist() == [2.0]
    assert objective.weight(batch, model).tolist() == [2.0]


def test_every_recipe_has_a_test() -> None:
    assert {path.rpartition("/")[0] for path in BLOCKS} == {
        "mcc/train/compress/codecs",
        "mcc/data/filters",
        "mcc/models",
        "mcc/data/stages",
        "mcc/data/task_files",
        "mcc/ckpt/formats",
        "mcc/eval/tasks",
        "mcc/train/tasks",
        "mcc/train/objectives",
    }
