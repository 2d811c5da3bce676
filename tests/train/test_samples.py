"""Codecs that remember samples: refused with the numbers where none comes again, or where they would not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mcc.core.errors import UsageError
from mcc.train import samples
from mcc.train.config import DataConfig, TrainConfig
from mcc.train.data import open_data
from mcc.train.layout import stages_of
from mcc.train.samples import check_samples, ends, never_again, samples_kept
from tests.train.job import job_config, tokens


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tokens(tmp_path_factory.mktemp("data"))


def config(data: Path, compress: str = "pp.forward=delta", kind: str = "fixed", **more) -> TrainConfig:
    run = {"global_batch_size": 8, **more}
    parallel = {"pp": 2, **run.pop("parallel", {})}
    made = job_config(data, None, run.pop("iters", 100), parallel, (compress,), **run)
    # 80 documents of 50 tokens: 249 windows of 16
    return dataclasses.replace(made, data=DataConfig(data_path=str(data), split="1,0,0", samples=kind))


def check(config: TrainConfig) -> None:
    check_samples(config, open_data(config), stages_of(config))


def test_what_fits_is_taken(data):
    whole = config(data)
    check(whole)
    assert samples_kept(whole, open_data(whole)) == 248
    assert never_again(whole, open_data(whole)) == []
    halves = config(data, parallel={"dp": 2})
    assert samples_kept(halves, open_data(halves)) == 124  # a window stays on its replica
    growing = config(data, parallel={"dp": 2}, rampup_batch_size=(4, 4, 40))
    assert samples_kept(growing, open_data(growing)) == 248
    short = config(data, iters=10)
    assert samples_kept(short, open_data(short)) == 80
    (warning,) = never_again(short, open_data(short))
    assert "the run takes 80 samples, an epoch has 248" in warning


def test_ends_of_the_fullest_rank(data):
    found = {}
    for name, parallel in {
        "two": {"pp": 2},
        "interleaved": {"pp": 2, "vpp": 2},
        "v": {"pp": 2, "vpp": 2, "schedule": "zbv"},
    }.items():
        made = config(data, parallel=parallel)
        made = dataclasses.replace(made, model=dataclasses.replace(made.model, num_layers=4))
        found[name] = ends(stages_of(made))
    assert found == {"two": 1, "interleaved": 3, "v": 2}


@pytest.mark.parametrize(
    ("given", "words", "hint"),
    [
        ({"kind": "running"}, "no sample of this data comes again", "--samples fixed"),
        (
            {"compress": "pp.forward=delta:max_samples=100"},
            "248 samples come to a replica, more than max_samples = 100",
            # 248 x 16 tokens x 32 values x 2 bytes
            "max_samples=248 takes 0.000237 GiB on a rank",
        ),
        (
            {"compress": "pp.forward=delta:store_bits=32"},
            "248 samples take 0.000473 GiB on each of 2 ranks, but the machine has 0.000931 GiB of memory",
            "store_bits=8",
        ),
    ],
)
def test_what_cannot_be_is_refused(data, monkeypatch, given, words, hint):
    monkeypatch.setattr(samples, "memory_bytes", lambda: 1_000_000)
    with pytest.raises(UsageError) as caught:
        check(config(data, **given))
    assert words in caught.value.what
    assert hint in caught.value.hint


def test_without_a_pipeline_nothing_is_kept(data):
    check(config(data, kind="running", parallel={"pp": 1}))
