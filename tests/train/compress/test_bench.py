"""The codecs' benchmark says of each codec what there is to say."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from mcc.cli.bench import app
from mcc.core.errors import UsageError
from mcc.train.compress import bench


def test_rates_shares_and_peers():
    threads = torch.get_num_threads()
    none, quantize, low = bench.measure(["none", "quantize:bits=4", "powersgd:rank=2"], [(8, 16)], repeats=1)
    assert torch.get_num_threads() == threads
    assert none.ratio == 1 and none.plain_encode_gb_s is None and none.encode_of_matmul is None
    assert quantize.ratio == pytest.approx(8 * 16 * 4 / (8 * 2 + 8 * 16 / 2))
    assert quantize.plain_encode_gb_s and quantize.plain_decode_gb_s and quantize.encode_of_matmul is None
    assert low.encode_of_matmul and low.decode_of_matmul and low.plain_encode_gb_s is None
    assert low.encode_of_copy == pytest.approx(low.encode_gb_s / low.copy_gb_s)


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
