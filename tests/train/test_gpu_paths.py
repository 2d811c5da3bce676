"""What a GPU's tensors meet, without a GPU: tensors that have a device and no memory, and process groups' names."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch._subclasses import FakeTensorMode

from mcc.train.compress import host
from mcc.train.compress.codec import Context, TensorSpec, codecs, pack, unpack
from mcc.train.compress.feedback import Feedback
from mcc.train.parallel import blocks

cuda_build = pytest.mark.skipif(torch.version.cuda is None, reason="fake CUDA tensors need a CUDA build of torch")


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("name", codecs.names())
def test_codecs_stay_on_the_gpu(name: str, feedback: bool) -> None:
    """What a codec remembers is made before it sees a tensor, on the host; what it gives is where the tensor is.

    Any device shows it; `meta` has neither memory nor needs a GPU.
    """
    cls = codecs.get(name)
    codec = cls(cls.Options(), TensorSpec((4, 6, 16), torch.float32), "key")
    codec = Feedback(codec) if feedback else codec
    message = pack(codec.encode(torch.empty(4, 6, 16, device="meta"), Context()))
    found = codec.decode(unpack(message, codec.payload()), Context())
    assert message.device.type == found.device.type == "meta"


@cuda_build
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_ring_attention_calls_the_kernels_as_they_are(
    dtype: torch.dtype, padded: bool, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their arguments and results have the number, shapes and dtypes that the code expects."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices, enabled=True: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: None)
    with FakeTensorMode():
        q = torch.empty(2, 4, 40, 16, device="cuda", dtype=dtype)
        k, v = (torch.empty(2, 2, 40, 16, device="cuda", dtype=dtype) for _ in range(2))
        padding = torch.ones(2, 40, dtype=torch.bool, device="cuda") if padded else None
        rule = blocks.Rule(causal=not padded, padding=padding, dropout=dropout)
        out, lse, state = blocks.attend(q, k, v, rule)
        assert (out.shape, out.dtype, lse.shape, lse.dtype) == (q.shape, dtype, q.shape[:3], torch.float32)
        found = blocks.gradients(torch.empty_like(q), q, k, v, out, lse, rule, state)
        assert [grad.shape for grad in found] == [q.shape, k.shape, v.shape]
        assert all(grad.device.type == "cuda" for grad in (out, lse, *found))


def test_an_old_gpu_has_no_flash_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        q = torch.empty(1, 2, 8, 16, device="cuda", dtype=torch.float16)
        for capability, flash in (((7, 5), False), ((8, 0), True)):
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None, found=capability: found)
            assert blocks._flash(q, blocks.Rule()) is flash


def test_the_carrier_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = {"both": "cpu:gloo,cuda:nccl", "shared": "cpu:gloo,cuda:gloo"}
    monkeypatch.setattr(dist, "get_backend_config", lambda group: configs[group])
    assert [host.carrier("cuda", group) for group in configs] == ["nccl", "gloo"]  # type: ignore[arg-type]
    assert not host.staged(torch.empty(2), "shared")  # type: ignore[arg-type]
