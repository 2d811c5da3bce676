"""`reshard` keeps everything but the layout; numbers that are none, families and formats by force, kills."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mcc.ckpt.convert import Reading, convert, reshard
from mcc.ckpt.diff import diff
from mcc.ckpt.format import WriteOptions, formats, open_checkpoint
from mcc.ckpt.verify import verify_files
from mcc.core import files as files_module
from mcc.core.errors import MccError, UsageError
from mcc.core.events import Silent
from mcc.core.files import Output
from tests.ckpt.models import InMemory, assert_same_tensors

SLOTS = ("exp_avg", "exp_avg_sq")


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_with_its_optimizer(tmp_path: Path) -> None:
    model = InMemory(slots=SLOTS, iteration=7)
    formats.get("mcc")().write(model, tmp_path / "a", WriteOptions(tp=2, pp=2))
    before = files(tmp_path / "a")
    done = reshard(tmp_path / "a", tmp_path / "b", tp=4, pp=1)
    assert (done.format, done.dropped) == ("mcc", ())
    found = open_checkpoint(tmp_path / "b")
    assert (found.meta.layout.tp, found.meta.layout.pp, found.meta.iteration) == (4, 1, 7)
    assert found.meta.extra["consumed_samples"] == 56
    assert diff(model, found, optimizer=True).max_abs == 0
    reshard(tmp_path / "b", tmp_path / "again", tp=2, pp=2)
    assert files(tmp_path / "again") == before == files(tmp_path / "a")


def test_megatrons_files_keep_their_version(tmp_path: Path) -> None:
    model = InMemory(dtype=torch.float16)
    formats.get("megatron")().write(model, tmp_path / "a", WriteOptions(tp=2, pp=2, megatron_version=1))
    reshard(tmp_path / "a", tmp_path / "b", tp=1, pp=4)
    found = open_checkpoint(tmp_path / "b", "megatron")
    assert (found.meta.layout.pp, found.meta.extra["checkpoint_version"]) == (4, 1.0)
    assert_same_tensors(found, model)
    reshard(tmp_path / "a", tmp_path / "c", tp=1, pp=2, changes={"vpp": 2, "megatron_version": 3})
    found = open_checkpoint(tmp_path / "c")
    assert (found.meta.layout.vpp, found.meta.extra["checkpoint_version"]) == (2, 3.0)
    assert_same_tensors(found, model)


def test_formats_without_layouts_are_refused(tmp_path: Path) -> None:
    formats.get("hf")().write(InMemory(), tmp_path / "a")
    with pytest.raises(UsageError, match="is in the format hf, which has no layout"):
        reshard(tmp_path / "a", tmp_path / "b", tp=2, pp=1)


def test_numbers_that_are_none(tmp_path: Path) -> None:
    model = InMemory(slots=SLOTS)
    model.values["layers.1.mlp.up.weight"][3, 2:4] = math.nan
    model.values["layers.1.mlp.up.weight"][0, 0] = -math.inf
    model.values["layers.2.norm1.bias"][0] = math.inf
    formats.get("hf")().write(model, tmp_path / "a")
    heard = Heard()
    convert(tmp_path / "a", tmp_path / "b", "mcc-safetensors", reporter=heard)
    message = "a/model.safetensors: tensor layers.1.mlp.up.weight holds 2 NaN and 1 infinite numbers"
    assert message in heard.warnings[0]
    assert "1 more tensors hold" in heard.warnings[1]
    assert diff(tmp_path / "b", model).max_abs == 0  # NaN like NaN
    with pytest.raises(MccError, match="holds 2 NaN and 1 infinite"):
        convert(tmp_path / "a", tmp_path / "c", "mcc", reading=Reading(strict=True))
    assert not (tmp_path / "c").exists()
    # Finite numbers whose sum is beyond the range are numbers.
    large = InMemory()
    large.values["final_norm.weight"] = torch.full((32,), 3e38)
    formats.get("hf")().write(large, tmp_path / "large")
    convert(tmp_path / "large", tmp_path / "d", "mcc", reading=Reading(strict=True))


def test_numbers_of_the_optimizer_that_are_none(tmp_path: Path) -> None:
    class Broken(InMemory):
        def read_slot(self, slot: str, name: str) -> torch.Tensor:
            return super().read_slot(slot, name) * (math.inf if name == "final_norm.bias" else 1)

    formats.get("mcc")().write(Broken(slots=SLOTS), tmp_path / "a")
    with pytest.raises(MccError, match=r"optimizer state exp_avg of final_norm\.bias holds"):
        reshard(tmp_path / "a", tmp_path / "b", 1, 1, reading=Reading(strict=True))


def test_family_and_format_by_force(tmp_path: Path) -> None:
    formats.get("hf")().write(InMemory(), tmp_path / "a")
    file = tmp_path / "a" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "my-gpt"}))
    with pytest.raises(MccError, match="model_type 'my-gpt' is none of mcc's families"):
        convert(tmp_path / "a", tmp_path / "b", "mcc")
    convert(tmp_path / "a", tmp_path / "b", "mcc", reading=Reading(format="hf", family="gpt2"))
    assert_same_tensors(open_checkpoint(tmp_path / "b"), InMemory())
    with pytest.raises(MccError, match="is of the family gpt2, not llama"):
        open_checkpoint(tmp_path / "b", family="llama")
    with pytest.raises(UsageError, match="unknown model family 'gpt'"):
        open_checkpoint(tmp_path / "b", family="gpt")
    with pytest.raises(MccError, match="has no tensor model"):
        open_checkpoint(tmp_path / "a", family="llama")


def test_checksums_on_demand(tmp_path: Path) -> None:
    formats.get("mcc")().write(InMemory(), tmp_path / "run")
    assert verify_files(tmp_path / "run", required=True) is not None
    (next((tmp_path / "run").glob("iter_*")) / "checksums.json").unlink()
    with pytest.raises(MccError, match=r"has no checksums\.json"):
        verify_files(tmp_path / "run", required=True)


KILLED = """
import os, signal, sys
from mcc.ckpt.convert import convert
from mcc.ckpt.format import formats, open_checkpoint
source = type(open_checkpoint(sys.argv[1]))
read = source.read
def dies(self, name):
    if name.startswith("layers.3"):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, name)
source.read = dies
convert(sys.argv[1], sys.argv[2], sys.argv[3])
"""


def test_killed_and_run_again(tmp_path: Path) -> None:
    model = InMemory()
    formats.get("mcc-safetensors")().write(model, tmp_path / "a")
    before, out = files(tmp_path / "a"), tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a", out, "mcc"], check=False)
    assert done.returncode == -9
    assert not out.exists()
    assert any(tmp_path.glob(".out*")), "it was killed before it wrote"
    convert(tmp_path / "a", out, "mcc")
    assert_same_tensors(open_checkpoint(out), model)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "out"]
    assert files(tmp_path / "a") == before


class Killed(BaseException):
    """Ends a conversion where `kill -9` would: nothing is tidied up after it."""


@pytest.mark.parametrize("to", [name for name, plugin in formats.all() if not plugin.read_only])
def test_ended_at_any_byte_and_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    """What was unfinished is never seen under the output's name, and the next run's files are as if it were the first.

    The written bytes are the tensors' files'; from the last of them on only small files are missing.
    """
    formats.get("mcc")().write(InMemory(slots=SLOTS), tmp_path / "a")
    options = WriteOptions(tp=2, pp=2) if formats.get(to).layouts else WriteOptions(shard_bytes=40_000)
    whole = convert(tmp_path / "a", tmp_path / "whole", to, options).size_bytes
    before, wanted, out = files(tmp_path / "a"), files(tmp_path / "whole"), tmp_path / "out"
    write, remove = Output.write, files_module.remove
    for end in (random.Random(to).randrange(whole), whole):
        with monkeypatch.context() as patch:
            left = [end]

            def dies(self: Output, data: memoryview | bytes, left: list[int] = left) -> int:
                view = memoryview(data).cast("B")
                write(self, view[: max(left[0], 0)])
                left[0] -= len(view)
                if left[0] < 0:
                    patch.setattr(files_module, "remove", lambda path: None)
                    raise Killed
                return len(view)

            patch.setattr(Output, "write", dies)
            with pytest.raises(Killed):
                convert(tmp_path / "a", out, to, options)
        assert files_module.remove is remove
        assert not out.exists()
        assert (tmp_path / ".out.partial").is_dir()
        convert(tmp_path / "a", out, to, options)
        assert files(out) == wanted
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "out", "whole"]
        assert files(tmp_path / "a") == before
        remove(out)
