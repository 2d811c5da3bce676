"""The codecs' benchmark says of each codec what there is to say."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mcc.cli.bench import app
from mcc.core.errors import UsageError
from mcc.train.compress import bench

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "bench_codecs.py"


def test_rates_shares_and_peers():
    threads = torch.get_num_threads()
    none, quantize, low = bench.measure(["none", "quantize:bits=4", "powersgd:rank=2"], [(8, 16)], repeats=1)
    assert torch.get_num_threads() == threads
    assert none.ratio == 1 and none.plain_encode_gb_s is None and none.encode_of_matmul is None
    assert quantize.ratio == pytest.approx(8 * 16 * 4 / (8 * 2 + 8 * 16 / 2))
    assert quantize.plain_encode_gb_s and quantize.plain_decode_gb_s and quantize.encode_of_matmul is None
    assert low.encode_of_matmul and low.decode_of_matmul and low.plain_encode_gb_s is None
    assert low.encode_of_copy == pytest.approx(low.encode_gb_s / low.copy_gb_s)


def test_the_benchmark_holds_low_rank_to_the_time_of_its_matmuls(monkeypatch, capsys):
    """At every rank of figure 14; 1.5 times is the most."""
    script, found = runpy.run_path(str(BENCHMARK)), {8: 1.2, 16: 1.51, 24: 1.5, 32: 1.0, 40: 2.0}

    def measured(codecs):
        rates = dict.fromkeys(
            ("ratio", "encode_gb_s", "decode_gb_s", "copy_gb_s", "encode_of_copy", "decode_of_copy"), 1
        )
        speed = bench.CodecSpeed(codec="", shape=(8, 16), **rates)
        return [
            dataclasses.replace(speed, codec=name, encode_of_matmul=found[int(name.partition("rank=")[2])])
            for name in codecs
            if name.startswith("powersgd")
        ]

    monkeypatch.setitem(script["main"].__globals__, "measure", measured)
    script["main"]()
    rows = [row for row in json.loads(capsys.readouterr().out) if row.get("bar") == "at most 1.5"]
    assert [row["value"] for row in rows] == list(found.values())
    assert [row["ok"] for row in rows] == [True, False, True, True, False]
    assert all("encode / its matmuls" in row["what"] for row in rows)


def test_the_command_prints_and_draws(tmp_path):
    picture = tmp_path / "codecs.svg"
    words = [
        "codecs",
        "--codec",
        "quantize:bits=8",
        "--shape",
        "8x16",
        "--repeats",
        "1",
        "--json",
        "--plot",
        str(picture),
    ]
    done = CliRunner().invoke(app, [*words, "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    assert [row["codec"] for row in json.loads(done.stdout)] == ["quantize:bits=8"]
    assert "<svg" in picture.read_text()


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(UsageError, match="endings"):
        bench.check_plot(tmp_path / "codecs.xyz")
    with pytest.raises(UsageError, match="memory"):
        bench.measure(shapes=[(10**7, 10**6)])
