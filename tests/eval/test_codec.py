"""`--codec`: what a run sent forward through codecs goes through them when its checkpoint is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mcc.ckpt.convert import convert
from mcc.ckpt.source import Layout, Meta
from mcc.cli.main import main
from mcc.core.errors import UsageError
from mcc.eval.generation.decoding import Decoding
from mcc.eval.generation.generate import complete
from mcc.eval.generation.records import Prompt
from mcc.eval.loading import load
from mcc.eval.perplexity import perplexity
from mcc.models.base.config import ModelConfig
from mcc.train.compress.codec import Context, TensorSpec
from mcc.train.compress.spec import parse
from mcc.train.inference import forward_codecs
from tests.eval.places import on_places

BOUNDARY = "pp.forward=quantize:bits=2"
LAYOUT: dict[str, Any] = {"tp": 1, "pp": 2, "vpp": 1, "stages": None, "schedule": "1f1b"}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory, hf_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    convert(hf_folder, folder / "run", "mcc")
    return folder / "run"


@pytest.fixture
def trained(native: Path, tmp_path: Path) -> Any:
    """Makes the checkpoint say that it was trained so."""
    import shutil

    def make(*compress: str, **layout: Any) -> Path:
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(native, run)
        file = run / (run / "latest").read_text().strip() / "mcc.json"
        values = json.loads(file.read_text())
        values |= {"compress": list(compress), "codec_layout": {**LAYOUT, **layout}}
        file.write_text(json.dumps(values))
        return run

    return make


def test_a_boundary_goes_through_its_codec(trained: Any, native: Path) -> None:
    """Row by row, whatever shares the batch; elsewhere the model is the same."""
    plain, coded = (load(native), load(trained(BOUNDARY), codecs=forward_codecs))
    assert coded.coding and "pp.forward=quantize" in coded.coding[0]
    tokens = torch.randint(0, 500, (3, 20), generator=torch.Generator().manual_seed(0))
    spec, now = parse(BOUNDARY), Context(training=False)
    with torch.no_grad():
        embedding = plain.model.embedding
        assert embedding is not None
        from mcc.models.base.extras import NO_EXTRAS

        x = plain.model.layers["0"](embedding(tokens, NO_EXTRAS), NO_EXTRAS, None)
        codec = spec.make(TensorSpec((1, 20, x.shape[2]), x.dtype), "any")
        x = torch.cat([codec.decode(codec.encode(row, now), now) for row in x.split(1)])
        expected = plain.model.layers["1"](x, NO_EXTRAS, None)
        assert torch.equal(coded.model.hidden(tokens), expected)
        assert not torch.allclose(plain.model.hidden(tokens), expected)


def test_sums_go_through_their_codec(trained: Any, corpus: str, tmp_path: Path) -> None:
    """Among as many ranks as in training; an exact codec changes nothing, whatever the batch size a lossy one."""
    file = tmp_path / "text.txt"
    file.write_text(corpus[:1200])
    lossy = trained("tp.forward=quantize:bits=3", tp=2, pp=1)
    plain = perplexity(lossy, file, overlap=48)
    settings: dict[str, Any] = {"checkpoint": lossy, "file": file, "overlap": 48, "layout": Layout(tp=2)}
    settings["codecs"] = forward_codecs
    coded, again = on_places(2, (perplexity, settings), (perplexity, {**settings, "batch_tokens": 1}))
    assert abs(plain.loss - coded.loss) > 1e-3
    assert coded.loss == pytest.approx(again.loss, abs=1e-6)
    with pytest.raises(UsageError, match="the run compressed sums over 2 tensor-parallel ranks, and here are 1"):
        perplexity(lossy, file, codecs=forward_codecs)


def texts(
    checkpoint: Path, prompts: list[str], batch_tokens: int, layout: Layout, codecs: Any = forward_codecs
) -> list[tuple[list[int], float]]:
    loaded = load(checkpoint, layout=layout, codecs=codecs)
    with loaded.leading():
        given, decoding = [Prompt(prompt) for prompt in prompts], Decoding(max_new_tokens=6, ignore_eos=True)
        return [(one.tokens, one.log_likelihood) for one in complete(loaded, given, decoding, batch_tokens)]


def test_texts_go_through_codecs(trained: Any, passages: list[str]) -> None:
    """A prompt as one row without padding, then each new token: batches and layouts change nothing."""
    prompts = [text[:20] for text in passages[:4]]
    for compress, layout in ((BOUNDARY, Layout(pp=2)), ("tp.forward=quantize:bits=3", Layout(tp=2))):
        run = trained(compress, tp=layout.tp, pp=layout.pp)
        asked: dict[str, Any] = {"checkpoint": run, "prompts": prompts, "layout": layout, "batch_tokens": 1000}
        together, alone = on_places(2, (texts, asked), (texts, {**asked, "batch_tokens": 1}))
        assert [tokens for tokens, _ in together] == [tokens for tokens, _ in alone]
        assert [value for _, value in together] == pytest.approx([value for _, value in alone], abs=1e-4)
        plain = texts(run, prompts, 1000, Layout(), codecs=None)
        assert all(abs(a - b) > 1e-3 for (_, a), (_, b) in zip(together, plain, strict=True))
        if layout.tp == 1:
            here = texts(run, prompts, 1000, Layout())
            assert [tokens for tokens, _ in together] == [tokens for tokens, _ in here]
            assert [value for _, value in together] == pytest.approx([value for _, value in here], abs=1e-4)


def test_the_command(trained: Any, corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "text.txt"
    file.write_text(corpus[:1200])
    words = ["eval", "perplexity", str(trained(BOUNDARY)), str(file), "--overlap", "48", "--json"]
    assert main([*words, "--codec", "both"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["on"]["loss"] != found["off"]["loss"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == found["off"]["loss"]
    assert main([*words, "--codec", "sometimes"]) == 2
    assert "unknown --codec 'sometimes'" in capsys.readouterr().err
    words[2] = str(trained())
    assert main([*words, "--codec", "on"]) == 2
    assert "does not say what was compressed in training" in capsys.readouterr().err


def test_scores_and_texts_by_command(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`both` keeps two sets of scores apart; a text is the one of its codecs."""
    run, file = str(trained(BOUNDARY)), tmp_path / "task.jsonl"
    file.write_text('{"text": "one two three"}\n{"text": "four five six seven"}\n')
    words = ["--tasks", "lambada", "--task-file", str(file), "--codec", "both", "--out", str(tmp_path / "out")]
    assert main(["eval", "zero-shot", run, *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    values = {way: found[way]["results"]["lambada"]["metrics"]["perplexity"]["value"] for way in ("on", "off")}
    assert values["on"] != values["off"]
    for way in values:
        assert json.loads((tmp_path / "out" / f"codec-{way}" / "results.json").read_text()) == found[way]
    words = ["--prompt", "one two", "--max-new-tokens", "9", "--ignore-eos", "--json"]
    sums = {}
    for way in ("on", "off"):
        assert main(["eval", "generate", run, *words, "--codec", way]) == 0
        (text,) = json.loads(capsys.readouterr().out)["texts"]
        sums[way] = text["log_likelihood"]
    assert sums["on"] != sums["off"]


def test_codecs_of_some_stages() -> None:
    """Only where the sender has one; none within a pipeline rank; keys and values cannot be."""
    config = ModelConfig(num_layers=4, hidden_size=32, vocab_size=100, seq_length=16)

    def found(*compress: str, **layout: Any) -> list[int]:
        extra = {"compress": list(compress), "codec_layout": {**LAYOUT, "pp": 4, **layout}}
        between, total, _ = forward_codecs(Meta(config=config, extra=extra), 1, 0, None)
        assert total is None
        return list(between)

    assert found(BOUNDARY) == [0, 1, 2]
    assert found(f"{BOUNDARY},stages=1") == [1]
    assert found(BOUNDARY, pp=1) == []
    assert found("dp.grad=powersgd:rank=4") == []
    assert found("tp.forward=quantize:bits=4") == []  # one tensor-parallel rank had nothing to add up
    with pytest.raises(UsageError, match="keys and values"):
        found("cp.kv=quantize:bits=4")
