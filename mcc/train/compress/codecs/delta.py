"""`delta`: how a sample's activations changed since its last visit, quantised (AQ-SGD, arXiv 2206.01299).

With x a sample's activations now, m what both ends keep of it, and Q the quantiser (algorithm 1), the sender sends
Q(x - m), and both ends go on with

    y = m + D(Q(x - m))    m <- y, rounded to `store_bits` bits

where y is what the receiver sees. As training settles, x moves less from visit to visit, so the same bits cost less
and less error. A sample's first visit is sent as it is, or in `first_bits` bits: the paper's warm-up epoch, sample by
sample, whenever a sample comes to a replica for the first time. One that comes twice in that step is sent so twice:
the size of a payload then does not depend on whether the first has arrived.

In evaluation, and for tensors without samples, the tensor itself is quantised, and nothing is remembered.
"""

# S samples of a micro-batch

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from mcc.core.config import option
from mcc.core.errors import MccError, UsageError
from mcc.train.compress.codec import STEADY, Codec, Context, Payload, TensorSpec
from mcc.train.compress.codecs.quantize import Quantize, QuantizeOptions
from mcc.train.compress.disk_store import DiskRows
from mcc.train.compress.kept import FORMS, Kept
from mcc.train.compress.store import RamRows, Rows

_WHY_NOT = {
    "pp.backward": "gradients settle nowhere: AQ-SGD quantises them directly, as quantize:bits=8",
    "dp.grad": "a gradient is of a whole step, not of samples that come again",
    "cp.kv": "keys and values of every layer would be kept of every sample",
}


@dataclass(frozen=True, kw_only=True)
class DeltaOptions(QuantizeOptions):
    """Options of `delta`: those of `quantize`, for the changes, and what is kept."""

    bits: int = option(4, "bits a value of a change, 1 to 8")
    first_bits: int = option(0, "bits a value of a sample's first visit, 1 to 8; 0: as it is")
    store: Literal["ram", "disk"] = option("ram", "where what is kept lies; disk: in a file in the --save folder")
    store_bits: int = option(16, "bits a value kept: 32, 16, or 8, 4, 2 with a scale a channel of a sample")
    max_samples: int = option(20000, "samples that a replica may keep")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.first_bits <= 8:
            raise UsageError(f"delta: first_bits = {self.first_bits} is not in 0..8")
        if self.store_bits not in FORMS:
            raise UsageError(f"delta: store_bits = {self.store_bits} is none of {', '.join(map(str, FORMS))}")
        if self.max_samples < 1:
            raise UsageError(f"delta: max_samples = {self.max_samples} must be at least 1")


class Delta(Codec):
    """The change of a sample since its last visit, quantised; for data whose samples come again."""

    Options = DeltaOptions
    source = "AQ-SGD, arXiv 2206.01299, algorithm 1"
    by_sample = True

    def __init__(self, options: DeltaOptions, spec: TensorSpec, key: str) -> None:
        super().__init__(options, spec, key)
        self._quantizers: dict[tuple[int, TensorSpec], Quantize] = {}
        self._direct = self._quantizer(options.bits, spec)
        self._known: dict[int, tuple[int, int]] = {}  # a sample -> its row, and the step of its first visit
        self._rows: Rows | None = None
        self._how: Kept | None = None
        self._coming: deque[Context] = deque()
        self._last: tuple[Context, Tensor] | None = None  # what the receiver sees of the last tensor

    @classmethod
    def refusal(cls, site: str, options: DeltaOptions) -> str | None:
        if site == "pp.forward":
            return None
        return f"delta is for pp.forward: {_WHY_NOT.get(site, 'it keeps samples at the two ends of one link')}"

    @classmethod
    def feedback_refusal(cls, options: DeltaOptions) -> str | None:
        return "delta sends again what it lost of a sample; feedback would add one sample's error to another"

    @classmethod
    def kept_bytes(cls, options: DeltaOptions, sample: tuple[int, ...]) -> int:
        return Kept(options.store_bits, sample).width

    def payload(self, context: Context = STEADY) -> tuple[TensorSpec, ...]:
        if not _known_samples(context):
            return self._direct.payload(context)
        first, again = self._visits(context)
        specs: tuple[TensorSpec, ...] = ()
        if first and self.options.first_bits:
            specs += self._for(self.options.first_bits, first, context).payload(context)
        elif first:
            specs += (TensorSpec(self._shape(first, context), self.spec.dtype),)
        if again:
            specs += self._for(self.options.bits, again, context).payload(context)
        return specs

    def encode(self, x: Tensor, context: Context) -> Payload:
        if not _known_samples(context):
            return self._direct.encode(x, context)
        first, again = self._visits(context)
        samples, kept = self._by_sample(x, context), None
        payload: Payload = ()
        if first and self.options.first_bits:
            codec = self._for(self.options.first_bits, first, context)
            payload += codec.encode(_some(samples, first).float().reshape(codec.spec.shape), context)
        elif first:
            payload += (_some(samples, first).reshape(self._shape(first, context)).to(self.spec.dtype),)
        if again:
            codec, kept = self._for(self.options.bits, again, context), self._kept(again, context, x.device)
            payload += codec.encode((_some(samples, again).float() - kept).view(codec.spec.shape), context)
        self._go_on(payload, kept, context)
        return payload

    def decode(self, payload: Payload, context: Context) -> Tensor:
        if not _known_samples(context):
            return self._direct.decode(payload, context)
        if self._last is None or self._last[0] != context:  # the sender went on when it encoded
            self._go_on(payload, None, context)
        assert self._last is not None
        return self._last[1]

    def begin(self, contexts: Sequence[Context]) -> None:
        self._coming = deque(context for context in contexts if _known_samples(context))
        self._expect()

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._rows is None else self._state(self._rows.blocks())

    def snapshot(self) -> dict[str, Tensor]:
        return {} if self._rows is None else self._state(self._rows.snapshot())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.restore(state, state.__getitem__)

    def restore(self, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        names = set(names)
        self._rows = self._last = None
        samples, steps = (read(name).tolist() if name in names else [] for name in ("samples", "steps"))
        self._known = {sample: (row, step) for row, (sample, step) in enumerate(zip(samples, steps, strict=True))}
        first = 0
        for index in range(len(names) - 2):
            block = read(f"rows{index}")
            self._store(block.shape[1]).write(range(first, first + len(block)), block)
            first += len(block)

    def _state(self, blocks: Iterable[Tensor]) -> dict[str, Tensor]:
        samples, steps = list(self._known), [step for _, step in self._known.values()]
        rows = {f"rows{index}": block for index, block in enumerate(blocks)}
        return {"samples": torch.tensor(samples), "steps": torch.tensor(steps), **rows}

    def _expect(self) -> None:
        """Have the rows of this micro-batch and of the next one fetched."""
        for context in islice(self._coming, 2) if self._rows is not None else ():
            assert context.samples is not None
            known = [self._known[sample][0] for sample in context.samples if sample in self._known]
            self._rows.expect(known)  # type: ignore[union-attr]

    def _go_on(self, payload: Payload, kept: Tensor | None, context: Context) -> None:
        """What both ends do with a payload: what the receiver sees of it, and what is kept of that."""
        first, again = self._visits(context)
        y = self._by_sample(torch.empty(self.spec.shape, device=payload[0].device), context)
        taken = 1
        if first and self.options.first_bits:
            codec = self._for(self.options.first_bits, first, context)
            taken = len(codec.payload(context))
            y[first] = codec.decode(payload[:taken], context).view(-1, *y.shape[1:])
        elif first:
            y[first] = payload[0].float().view(-1, *y.shape[1:])
        if again:
            change = self._for(self.options.bits, again, context).decode(payload[taken if first else 0 :], context)
            kept = self._kept(again, context, y.device) if kept is None else kept
            y[again] = change.view_as(kept).add_(kept)
        self._keep(y, context)
        while self._coming and self._coming[0].microbatch <= context.microbatch:
            self._coming.popleft()
        self._expect()
        self._last = context, y.view(self.spec.shape).to(self.spec.dtype)

    def _kept(self, places: Sequence[int], context: Context, device: torch.device) -> Tensor:
        """float32[len(places), *sample]: what is kept of the samples at these places of the micro-batch."""
        assert context.samples is not None and self._rows is not None
        rows = self._rows.read([self._known[context.samples[place]][0] for place in places])
        return self._kept_as(context).samples(rows.to(device))

    def _keep(self, y: Tensor, context: Context) -> None:
        assert context.samples is not None
        for sample in context.samples:
            if sample in self._known:
                continue
            if len(self._known) == self.options.max_samples:
                raise MccError(f"{self.key}: more than max_samples = {self.options.max_samples} samples came by")
            self._known[sample] = len(self._known), context.step
        rows = self._kept_as(context).rows(y).cpu()
        self._store(rows.shape[1]).write([self._known[sample][0] for sample in context.samples], rows)

    def _store(self, width: int) -> Rows:
        if self._rows is None:
            self._rows = RamRows(width) if self.options.store == "ram" else DiskRows(width, self.folder)
        return self._rows

    def _visits(self, context: Context) -> tuple[list[int], list[int]]:
        """The places in the micro-batch of samples on their first visit, and of those that come again."""
        assert context.samples is not None
        steps = [self._known.get(sample, (0, context.step))[1] for sample in context.samples]
        places = range(len(steps))
        return [i for i in places if steps[i] == context.step], [i for i in places if steps[i] != context.step]

    def _by_sample(self, x: Tensor, context: Context) -> Tensor:
        """x[spec.shape] as [S, rows, ...]: several rows where a sample has several choices."""
        assert context.samples
        return x.reshape(len(context.samples), -1, *self.spec.shape[1:])

    def _shape(self, places: Sequence[int], context: Context) -> tuple[int, ...]:
        """Of the tensor of the samples at these places."""
        assert context.samples
        return (self.spec.shape[0] // len(context.samples) * len(places), *self.spec.shape[1:])

    def _kept_as(self, context: Context) -> Kept:
        """How samples are kept."""
        if self._how is None:
            self._how = Kept(self.options.store_bits, self._shape([0], context))
        return self._how

    def _for(self, bits: int, places: Sequence[int], context: Context) -> Quantize:
        return self._quantizer(bits, TensorSpec(self._shape(places, context), torch.float32))

    def _quantizer(self, bits: int, spec: TensorSpec) -> Quantize:
        """The quantiser of such tensors; it remembers nothing."""
        if (bits, spec) not in self._quantizers:
            names = [field.name for field in dataclasses.fields(QuantizeOptions)]
            values = {name: getattr(self.options, name) for name in names}
            self._quantizers[bits, spec] = Quantize(QuantizeOptions(**values | {"bits": bits}), spec, self.key)
        return self._quantizers[bits, spec]


def _known_samples(context: Context) -> bool:
    return context.training and context.samples is not None


def _some(x: Tensor, places: list[int]) -> Tensor:
    return x if len(places) == len(x) else x[places]
