"""Presets of compression: each is whole, and gives way to what the user says."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from mcc.cli.train import app
from mcc.core.errors import MccError, UsageError
from mcc.train.compress import presets
from mcc.train.compress.presets import expand, preset, with_presets
from mcc.train.compress.spec import parse_all
from mcc.train.config import TrainConfig


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_whole(name):
    found = preset(name)
    assert found.description and "arXiv" in found.source
    assert parse_all(found.compress)
    assert with_presets(TrainConfig(compress=(name,))).compress == found.compress


def test_optimus_cc_is_cb_fe_sc():
    whole, part = preset("optimus-cc"), preset("cb-fe-sc")
    assert whole.description != part.description
    assert dataclasses.replace(whole, description=part.description) == part


def test_what_the_user_says_goes_first():
    texts, needed = expand(["pp.backward=none", "cb-fe-sc", "pp.forward=quantize:bits=8"])
    assert {text.partition(":")[0] for text in texts} == {"dp.grad=powersgd", "pp.backward=none", "pp.forward=quantize"}
    assert needed == {"parallel.embedding_sync": "fused"}
    config = TrainConfig(compress=("cb",))
    assert with_presets(config).parallel.embedding_sync == "separate"
    assert with_presets(config, {"parallel.embedding_sync"}).parallel.embedding_sync == "fused"
    assert with_presets(config, ()).compress == ("pp.backward=powersgd:rank=16,when=epilogue",)


def test_contradictions_are_refused():
    with pytest.raises(UsageError, match="did you mean 'optimus-cc'"):
        expand(["optimuscc"])
    with pytest.raises(UsageError, match=r"presets cb and cb-lep both compress pp\.backward"):
        expand(["cb", "cb-lep"])
    with pytest.raises(UsageError, match=r"presets cb and cb-fe set parallel\.embedding_sync differently"):
        expand(["cb", "cb-fe", "pp.backward=none"])
    assert expand(["cb", "cb"]) == expand(["cb"])


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('description = "d"\nsource = "s"\ncompress = ["pp.forward=none"]\n[settings]\n"run.seed" = 7\n')
    config = with_presets(TrainConfig(compress=(str(file),)))
    assert config.compress == ("pp.forward=none",) and config.run.seed == 7
    for text, message in (
        ('description = "d"\nsource = "s"\ncompress = ["cb"]', "names no other preset"),
        ('description = "d"\nsource = "s"\ncompress = ["a=b", "a=c"]', "names a site twice"),
        ('description = "d"\nsource = "s"\ncompress = []\nmore = 1', "unknown key 'more'"),
        ('description = "d"\nsource = "s"\ncompress = []\n[settings]\n"run.sed" = 1', "did you mean 'run.seed'"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=message) as caught:
            preset(str(file))
        assert "mine.toml" in caught.value.what
    with pytest.raises(MccError, match=r"none\.toml"):
        preset(str(tmp_path / "none.toml"))


def test_the_command_shows_them():
    run = CliRunner().invoke
    shown = json.loads(run(app, ["--show-compress", "optimus-cc", "--json"]).stdout)
    assert "feedback=on,warmup=0.1,stages=-75%" in shown["compress"][1]
    assert shown["settings"] == {"parallel.embedding_sync": "fused"}
    assert {entry["preset"] for entry in json.loads(run(app, ["--list-presets", "--json"]).stdout)} == set(
        presets.names()
    )
    config = json.loads(run(app, ["--compress", "cb", "--show-config"]).stdout)
    assert config["compress"] == ["pp.backward=powersgd:rank=16,when=epilogue"]
    assert config["parallel"]["embedding_sync"] == "separate"
    config = json.loads(run(app, ["--compress", "cb", "--embedding-sync", "fused", "--show-config"]).stdout)
    assert config["parallel"]["embedding_sync"] == "fused"
