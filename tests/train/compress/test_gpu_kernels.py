"""The GPU's kernels, interpreted on the CPU, give the bits of the plain formulation."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="the GPU's kernels are Triton's; it comes with CUDA builds of torch")

CHECK = """
import itertools, torch
from mcc.train.compress.kernels import gpu
from tests.train.compress.streams import make, normal

def check(text, shape, dtype):
    codec = make(f"quantize:{text}", shape, dtype)
    for factor, bad in [(1, None), (1e-39, None), (3e38, None), (0, None), (1, float("inf")), (1, float("nan"))]:
        x = normal(*shape) * factor
        if bad is not None:
            x.view(-1)[x.numel() // 2] = bad
        x = x.to(dtype)
        want, found = codec.encode_plainly(x), gpu.encode(x, codec.layout)
        assert found is not None, (text, shape)
        number = ~want[0].isnan()
        assert torch.equal(found[0].isnan(), ~number), (text, shape, dtype, factor, bad)
        assert torch.equal(found[0][number], want[0][number]), (text, shape, dtype, factor, bad)
        assert torch.equal(found[1], want[1]), (text, shape, dtype, factor, bad)
        seen, total = codec.decode_plainly(want), normal(*shape, seed=1)
        exact = dict(rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(gpu.decode(*found, codec.layout, dtype, None).view(shape), seen, **exact)
        added = gpu.decode(*found, codec.layout, dtype, total.clone())
        torch.testing.assert_close(added.view(shape), total + seen, **exact)

for bits in (1, 2, 4, 8):
    check(f"bits={bits}", (5, 48), torch.float32)
scales, dtypes = ["token", "tensor", "channel", "block,block=64"], [torch.float32, torch.bfloat16]
for scale, dtype in itertools.product(scales, dtypes):
    check(f"bits=4,scale={scale}", (9, 100), dtype)
check("bits=4", (6, 33), torch.float32)  # a row ends within a byte
check("bits=4", (6, 32), torch.float16)
codec = make("quantize:bits=3", (4, 8))
assert gpu.encode(normal(4, 8), codec.layout) is None
"""


def test_gpu_kernels_give_the_bits_of_plain_torch():
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
