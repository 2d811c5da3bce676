"""The kernels give the bits of the plain formulation, whatever the tensor."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.train.compress import kernels
from mcc.train.compress.bits import pack_bits, packed_bytes, unpack_bits
from mcc.train.compress.codec import Context
from mcc.train.compress.codecs import powersgd
from mcc.train.compress.codecs.quantize import Quantize
from tests.train.compress.streams import make, normal

numba = pytest.importorskip("numba", reason="the CPU's kernels are compiled by numba")

from numba.core import caching  # noqa: E402

from mcc.train.compress.kernels import compiled, cpu, loops  # noqa: E402

SCALES = ["scale=token", "scale=tensor", "scale=block,block=24", "scale=block,block=5000", "scale=channel"]
# The last are several spans long, and end within one.
SHAPES = [(1,), (3, 5), (70, 3), (2, 7, 48), (9, 1000), (3, 5003)]


def quantizer(text: str, shape: tuple[int, ...], dtype: torch.dtype) -> Quantize:
    codec = make(f"quantize:{text}", shape, dtype)
    assert isinstance(codec, Quantize)
    return codec


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    """Rows of very different magnitude, among them zeros, the smallest numbers, overflow, infinities and NaN."""
    x = normal(*shape)
    rows = x.shape[0]
    powers = torch.linspace(-45, 38, rows).view(-1, *[1] * (x.dim() - 1))
    found = [x, x * 10.0**powers, torch.zeros(shape), x * 1e-39, x * 3e38]
    for bad in (float("inf"), -float("inf"), float("nan")):
        y = x.clone()
        y.view(-1)[x.numel() // 2] = bad
        found.append(y)
    return [y.to(dtype) for y in found]


def same_bits(codec: Quantize, x: torch.Tensor) -> None:
    want = codec.encode_plainly(x)
    scale, packed = cpu.encode(x, codec.layout)
    number = ~want[0].isnan()
    assert torch.equal(scale.isnan(), ~number)
    assert torch.equal(scale[number].view(torch.int16), want[0][number].view(torch.int16))
    levels = [codec.groups.split(unpack_bits(p, codec.options.bits, codec.count)) for p in (packed, want[1])]
    # Where a scale is NaN nobody reads levels, and processors differ in what they make of NaN.
    assert torch.equal(*(torch.where(codec.groups.column(number), q, 0) for q in levels))
    assert not number.all() or torch.equal(packed, want[1])
    dtype = codec.spec.dtype
    seen = codec.decode_plainly(want)
    found = cpu.decode(scale, packed, codec.layout, dtype, None).view(x.shape)
    assert found.dtype == dtype
    torch.testing.assert_close(found, seen, rtol=0, atol=0, equal_nan=True)
    total = normal(*x.shape, seed=1)
    added = cpu.decode(scale, packed, codec.layout, dtype, total.clone()).view(x.shape)
    torch.testing.assert_close(added, total + seen, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", SCALES)
def test_kernels_give_the_bits_of_plain_torch(scale, shape):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        codec = quantizer(f"bits=4,{scale}", shape, dtype)
        for x in inputs(shape, dtype):
            same_bits(codec, x)


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 6, 7, 8])
def test_kernels_of_other_widths(bits):
    for scale in SCALES[:3]:
        codec = quantizer(f"bits={bits},{scale}", (9, 1000), torch.float32)
        for x in inputs((9, 1000), torch.float32):
            same_bits(codec, x)


@given(st.integers(1, 7), st.integers(1, 700), st.integers(0, 9))
@settings(deadline=None)
def test_packing_is_that_of_bits(bits, count, seed):
    q = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    spare = torch.empty(loops.spare_words(), dtype=torch.uint64).numpy()
    filled = torch.cat([q, q.new_zeros(-count % 8)])
    packed = torch.empty(packed_bytes(count, bits), dtype=torch.uint8)
    loops.pack(filled.numpy(), bits, spare, packed.numpy())
    assert torch.equal(packed, pack_bits(q, bits))
    back = torch.zeros_like(filled)
    loops.unpack(packed.numpy(), bits, spare, back.numpy())
    assert torch.equal(back[:count], unpack_bits(packed, bits, count)) and torch.equal(back[:count], q)


def test_a_codec_takes_a_kernel_for_large_tensors_and_none_without_numba(monkeypatch):
    x = normal(40, 1000)
    codec = quantizer("bits=4", (40, 1000), torch.float32)
    used = []
    monkeypatch.setattr(cpu, "encode", lambda *a, f=cpu.encode: used.append("encode") or f(*a))
    monkeypatch.setattr(cpu, "decode", lambda *a, f=cpu.decode: used.append("decode") or f(*a))
    payload = codec.encode(x.T.contiguous().T, Context())  # of other strides
    seen, total = codec.decode(payload, Context()), x.clone()
    codec.add_decoded(payload, Context(), total)
    assert used == ["encode", "decode", "decode"]
    quantizer("bits=4", (4, 10), torch.float32).encode(x[:4, :10], Context())
    assert used == ["encode", "decode", "decode"]
    monkeypatch.setattr(kernels, "available", lambda device: None)
    plain = codec.encode(x, Context())
    assert all(torch.equal(a, b) for a, b in zip(payload, plain, strict=True))
    assert torch.equal(codec.decode(plain, Context()), seen)
    again = x.clone()
    codec.add_decoded(plain, Context(), again)
    assert torch.equal(total, again)
    assert used == ["encode", "decode", "decode"]


def test_nothing_loads_numba_before_it_is_needed():
    code = "import sys, mcc.train.loop, mcc.train.compress.codecs.quantize; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kernels_need_no_folder_to_write_to(monkeypatch):
    """Where numba finds no place for its cache, a kernel is compiled for this process."""
    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", lambda self: _refuse())
    program = compiled.compile_program(_twice, numba.types.voidptr, numba.int64)
    x = torch.ones(3)
    program(x.data_ptr(), 3)
    assert x.tolist() == [2, 2, 2]


def test_programs_are_compiled_anew_when_the_loops_or_their_numbers_change(tmp_path, monkeypatch):
    """By content: a file may change and keep its size and time, and one of the numbers comes from another file."""
    source = tmp_path / "loops.py"
    shutil.copy2(loops.__file__, source)
    was = source.stat()
    monkeypatch.setattr(loops, "__file__", str(source))
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))

    def index() -> tuple[int, int]:
        compiled.compile_program(_twice, numba.types.voidptr, numba.int64)
        (file,) = tmp_path.rglob("*.nbi")
        return file.stat().st_ino, file.stat().st_mtime_ns

    first = index()
    assert index() == first, "read from the cache"
    source.write_bytes(source.read_bytes().replace(b"SPAN = 4096", b"SPAN = 8192"))
    os.utime(source, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert source.stat().st_size == was.st_size
    second = index()
    assert second != first
    assert index() == second
    monkeypatch.setattr(compiled, "HEADROOM", 1 + 1 / 125)
    third = index()
    assert third != second
    assert index() == third


def _refuse() -> None:
    raise OSError("read-only")


def _twice(address, count):
    x = numba.carray(address, count, np.float32)
    for i in range(count):
        x[i] *= 2


def _off(rows: torch.Tensor) -> float:
    """How far rows are from orthonormal."""
    rows = rows.double()
    return float((rows @ rows.mT - torch.eye(rows.shape[-2])).abs().max())


@pytest.mark.parametrize("shape", [(1, 5), (3, 3), (4, 16), (6, 100), (16, 512), (17, 700), (40, 1300), (2, 8, 64)])
@pytest.mark.parametrize("apart", [1.0, 0.2, 0.05])  # how far the rows are off their first one
def test_rows_become_orthonormal_and_span_what_they_did(shape, apart):
    """Those of QR but for signs, up to rounding errors that grow with how near to one plane the rows were."""
    p = normal(*shape)
    p[..., 1:, :] = p[..., :1, :] + apart * p[..., 1:, :]
    found = cpu.orthonormal(p)
    if found is None:  # small ones may be nearer
        assert apart < 1
        return
    assert found.shape == p.shape and found.is_contiguous() and _off(found) < 1e-5
    want = torch.linalg.qr(p.double().mT).Q.mT
    signs = (found * want).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(found.double() * signs, want, atol=2e-5 / apart**2, rtol=0)
    small = cpu.orthonormal(p * 1e-12)
    torch.testing.assert_close(small, found, atol=1e-3, rtol=0)


def test_rows_that_have_no_plane_of_their_own_are_left_to_qr():
    p = normal(8, 64)
    for bad in (0.0, float("nan"), float("inf"), 1e-30):
        rows = p.clone()
        rows[5] = bad
        assert cpu.orthonormal(rows) is None
    twice = p.clone()
    twice[7] = p[2] - p[4]
    assert cpu.orthonormal(twice) is None
    assert cpu.orthonormal(torch.stack([p, twice])) is None
    assert _off(powersgd.orthonormal(twice.repeat(1, 9))) < 1e-5  # whatever else they span


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_rank_by_the_kernel_is_that_by_qr(dtype, monkeypatch):
    x = normal(300, 80).to(dtype)
    seen = []
    for least in (0, 1 << 40):
        monkeypatch.setattr(kernels, "_LEAST_THIN", least)
        codec = make("powersgd:rank=20", (300, 80), dtype)
        for step in range(3):
            seen.append(codec.decode(codec.encode(x, Context(step=step)), Context(step=step)).float())
    # Products of rounded factors: a few units in the last place of x's dtype, or of fp32's.
    for ours, theirs in zip(seen[:3], seen[3:], strict=True):
        torch.testing.assert_close(ours, theirs, atol=4 * max(torch.finfo(dtype).eps, 1e-6) * 4, rtol=0)
