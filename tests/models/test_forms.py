"""Layout changes, spelled out on numbers small enough to read."""

from __future__ import annotations

import pytest
import torch

from mcc.models.base.config import ModelConfig
from mcc.models.base.forms import FORMS, join, pad_rows, split, split_shapes

CONFIG = ModelConfig(hidden_size=4, num_attention_heads=2, vocab_size=8)


def test_fused_qkv_by_name() -> None:
    ours = ["q00", "q01", "k00", "k01", "v00", "v01", "q10", "q11", "k10", "k11", "v10", "v11"]
    theirs = ["q00", "q01", "q10", "q11", "k00", "k01", "k10", "k11", "v00", "v01", "v10", "v11"]
    order = FORMS["fused_qkv"].to(torch.arange(12), CONFIG)
    assert [ours[i] for i in order] == theirs


@pytest.mark.parametrize("name", sorted(FORMS))
def test_back_is_the_inverse_and_shape_is_told(name: str) -> None:
    form = FORMS[name]
    tensor = torch.randn(12, 4)
    there = form.to(tensor, CONFIG)
    assert tuple(there.shape) == form.shape((12, 4))
    assert torch.equal(form.back(there, CONFIG), tensor)
    assert torch.equal(form.to(form.back(there, CONFIG), CONFIG), there)


def test_what_is_turned_twice_is_not_copied() -> None:
    form, tensor = FORMS["transposed"], torch.randn(12, 4)
    for there in (form.to(tensor, CONFIG), form.back(tensor, CONFIG)):
        assert there.data_ptr() == tensor.data_ptr()
        assert form.back(there, CONFIG).is_contiguous()


def test_fused_qkv_of_shared_keys_by_name() -> None:
    """Four heads, two key/value heads, one channel: a group's queries, its key, its value."""
    ours = ["q0", "q1", "k0", "v0", "q2", "q3", "k1", "v1"]
    theirs = ["q0", "q1", "q2", "q3", "k0", "k1", "v0", "v1"]
    config = ModelConfig(hidden_size=4, num_attention_heads=4, num_query_groups=2, vocab_size=8)
    order = FORMS["fused_qkv"].to(torch.arange(8), config)
    assert [ours[i] for i in order] == theirs
    assert [len(part) for part in split(torch.arange(8), FORMS["fused_qkv"], config, 3)] == [4, 2, 2]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_several_tensors_for_one(groups: int) -> None:
    config = ModelConfig(hidden_size=12, num_attention_heads=4, num_query_groups=groups, vocab_size=8)
    form, rows = FORMS["fused_qkv"], (4 + 2 * groups) * 3
    tensor = torch.randn(rows, 12)
    parts = split(tensor, form, config, 3)
    assert [tuple(part.shape) for part in parts] == split_shapes((rows, 12), form, config, 3)
    assert torch.equal(join(parts, form, config), tensor)


def test_fused_qkv_transposed_is_both() -> None:
    tensor = torch.randn(12, 4)
    assert torch.equal(FORMS["fused_qkv_transposed"].to(tensor, CONFIG), FORMS["fused_qkv"].to(tensor, CONFIG).T)


def test_pad_rows() -> None:
    tensor = torch.ones(3, 2, dtype=torch.bfloat16)
    padded = pad_rows(tensor, 5)
    assert (tuple(padded.shape), padded.dtype) == ((5, 2), torch.bfloat16)
    assert not padded[3:].any()
    assert torch.equal(pad_rows(padded, 3), tensor)
    assert pad_rows(tensor, 3) is tensor
