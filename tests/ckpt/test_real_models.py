"""Released weights through chains of formats and layouts come back bit for bit, and compute what transformers does.

Needs the folder that `real_models.py` lays out (minilm-bert, smollm2-135m), named by the environment's MCC_REAL_MODELS:

    MCC_REAL_MODELS=models/real python -m pytest -m slow tests/ckpt/test_real_models.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from mcc.ckpt.convert import convert, merge, split
from mcc.ckpt.diff import diff
from mcc.ckpt.format import WriteOptions, open_checkpoint
from mcc.ckpt.verify import verify

pytestmark = pytest.mark.slow


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Path:
    """The Hugging Face folder of the model that the test is given."""
    where = os.environ.get("MCC_REAL_MODELS")
    if not where:
        pytest.skip("MCC_REAL_MODELS does not name the folder of the released models")
    folder = Path(where) / request.param
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"{folder} is not there")
    return folder


def assert_same_files(a: Path, b: Path) -> None:
    """The tensors of two Hugging Face folders, as stored: same names, dtypes and bytes; constants may be missing."""
    from safetensors import safe_open

    with safe_open(a / "model.safetensors", "pt") as theirs, safe_open(b / "model.safetensors", "pt") as ours:
        missing = set(theirs.keys()) - set(ours.keys())
        assert all(name.endswith("position_ids") for name in missing), missing
        assert set(ours.keys()) <= set(theirs.keys())
        for name in ours.keys():  # noqa: SIM118 - the handle is no mapping
            x, y = theirs.get_tensor(name), ours.get_tensor(name)
            assert x.dtype == y.dtype, name
            assert torch.equal(x, y), name


@pytest.mark.parametrize("real", ["minilm-bert"], indirect=True)
def test_bert_through_megatrons_layouts(tmp_path: Path, real: Path) -> None:
    first, second, merged, back = (tmp_path / name for name in ("tp2-pp2-v3", "tp4-pp1-v2", "merged", "hf"))
    split(real, first, 2, 2, options=WriteOptions(megatron_version=3))
    split(first, second, 4, 1, options=WriteOptions(megatron_version=2))
    found = open_checkpoint(second).meta
    assert (found.layout.tp, found.layout.pp, found.extra["checkpoint_version"]) == (4, 1, 2.0)
    merge(second, merged)
    convert(merged, back, "hf")
    assert_same_files(real, back)
    for path in (second, merged):
        report = verify(path, real)
        assert report.runs == ("mcc", "transformers")
        assert report.passed, report


@pytest.mark.parametrize("real", ["smollm2-135m"], indirect=True)
def test_llama_through_a_native_layout(tmp_path: Path, real: Path) -> None:
    native, back = tmp_path / "tp3-pp5", tmp_path / "hf"
    convert(real, native, "mcc", WriteOptions(tp=3, pp=5))
    found = open_checkpoint(native).meta
    assert (found.layout.tp, found.layout.pp) == (3, 5)
    assert diff(real, native).max_abs == 0
    convert(native, back, "hf")
    assert_same_files(real, back)
    report = verify(native, real)
    assert report.runs == ("mcc", "transformers")
    assert report.passed, report
