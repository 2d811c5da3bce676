"""The codecs' kernels: the bits of plain torch, and their rates beside a copy of the same tensor."""

from __future__ import annotations

from typing import Any

import torch

from mcc.train.compress import bench
from mcc.train.compress.codec import Context, TensorSpec
from mcc.train.compress.codecs.quantize import Quantize
from mcc.train.compress.spec import parse

_OPTIONS = ("bits=8", "bits=4", "bits=2", "bits=1", "bits=4,scale=block", "bits=4,scale=channel", "bits=4,scale=tensor")
_BAR = 0.7


def measure(device: str, tiny: bool) -> list[dict[str, Any]]:
    """The rows: whether bits agree, then rates. A bar only where there is a GPU."""
    shape = (256, 128) if tiny else (8192, 8192)
    rows = [_same(options, shape, dtype, device) for options in _OPTIONS for dtype in (torch.float32, torch.bfloat16)]
    codecs = [f"quantize:{options}" for options in _OPTIONS] + ["powersgd:rank=16", "powersgd:rank=40"]
    for found in bench.measure(codecs, [shape], 3 if tiny else 50, device=device):
        for way, share in (("encode", found.encode_of_copy), ("decode", found.decode_of_copy)):
            row: dict[str, Any] = {"what": f"{found.codec}, {shape[0]}x{shape[1]}: {way} / copy", "value": share}
            barred = device == "cuda" and found.codec in ("quantize:bits=8", "quantize:bits=4")
            rows.append(row | ({"bar": f"at least {_BAR}", "ok": share >= _BAR} if barred else {}))
        if found.encode_of_matmul is not None:
            what = f"{found.codec}: encode / its matmuls' time"
            rows.append({"what": what, "value": found.encode_of_matmul, "bar": "at most 1.5"})
            if device == "cuda":
                rows[-1]["ok"] = found.encode_of_matmul <= 1.5
    return rows


def _same(options: str, shape: tuple[int, int], dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Whether the kernels do as plain torch does on the CPU."""
    codec = parse(f"pp.forward=quantize:{options}").make(TensorSpec(shape, dtype), "bench")
    assert isinstance(codec, Quantize)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    want, found = codec.encode_plainly(x), codec.encode(x.to(device), Context())
    total = torch.ones(shape, device=device)
    codec.add_decoded(found, Context(), total)
    seen = codec.decode_plainly(want)
    ok = all(torch.equal(a, b.cpu()) for a, b in zip(want, found, strict=True))
    ok = ok and torch.equal(codec.decode(found, Context()).cpu(), seen) and torch.equal(total.cpu(), 1 + seen.float())
    return {"what": f"quantize:{options}, {str(dtype).removeprefix('torch.')}: bits of plain torch", "ok": ok}
