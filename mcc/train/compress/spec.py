"""The grammar of `--compress`: SITE=CODEC[:key=value,...], checked before anything starts.

pp.forward=quantize:bits=4
dp.grad=powersgd:rank=8,feedback=on
pp.backward=powersgd:rank=16,when=epilogue,feedback=lazy
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mcc.core.config import build, settings
from mcc.core.errors import UsageError, unknown
from mcc.train.compress.codec import Codec, TensorSpec, codecs
from mcc.train.compress.feedback import Feedback
from mcc.train.compress.sites import chosen, site_refusal
from mcc.train.compress.where import EVERYWHERE, KEYS, Scope

# What each site carries. A site is a place in the engine that asks its `CodecSpec` for codecs.
SITES = {
    "tp.forward": "sum of the partial outputs of row-parallel layers, over the tensor-parallel ranks",
    "tp.backward": "sum of the input gradients of column-parallel layers, over the tensor-parallel ranks",
    "pp.forward": "activations sent to the next pipeline stage",
    "pp.backward": "gradients of activations sent to the previous pipeline stage",
    "dp.grad": "gradients of the parameters, summed over the data-parallel ranks",
    "cp.kv": "keys and values of ring attention, sent round the context-parallel ranks",
    "zero.grads": "gradients, summed where their owner is, with --zero 1 or --fully-shard",
    "zero.weights": "parameters that their owners updated, with --zero 1; or all, when needed, with --fully-shard",
    "embedding": "gradient of the tied embedding, summed over its two copies and the data-parallel ranks",
}

FORWARD = ("tp.forward", "pp.forward", "cp.kv")  # sites that an evaluation sends through, too

_FEEDBACK = {"on": "on", "true": "on", "1": "on", "off": "off", "false": "off", "0": "off", "lazy": "lazy"}
_WRAPPERS = ("feedback", "warmup", *KEYS)


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """A codec with its options and wrappers, for one site.

    `feedback`: add what was lost of one tensor to the next; with `lazy` to the next that is compressed. `warmup`: send
    as it is in the first steps; a number of steps, or below 1 a share of the run. `scope`: where and when to compress.
    `of`: what is sent, at sites where there is a choice.
    """

    site: str
    name: str
    options: Any
    feedback: bool = False
    lazy: bool = False
    warmup: float = 0
    scope: Scope = EVERYWHERE
    of: str = ""

    @property
    def codec(self) -> type[Codec]:
        """The codec's class."""
        return codecs.get(self.name)

    @property
    def adds_payloads(self) -> bool:
        """Whether the codec sums payloads over ranks without decoding them."""
        own = self.codec.all_reduce.__func__ is not Codec.all_reduce.__func__  # type: ignore[attr-defined]
        return own or self.codec.additive

    def sums_plainly(self, size: int) -> bool:
        """Whether sums over `size` ranks are those without a codec; see `Codec.exact`."""
        return self.codec.exact and size > 2

    @property
    def remembers(self) -> bool:
        """Whether what is sent depends on what was sent before."""
        return self.feedback or self.codec.remembers(self.options)

    def active(self, step: int, train_iters: int, epoch: int = 0) -> bool:
        """Whether step `step` of epoch `epoch`, both counted from 0, is compressed.

        >>> spec = parse("dp.grad=powersgd:rank=8,warmup=0.1")
        >>> spec.active(9, 100), spec.active(10, 100)
        (False, True)
        """
        warm = step >= (self.warmup * train_iters if self.warmup < 1 else self.warmup)
        return warm and self.scope.when.reached(step, epoch)

    def make(self, spec: TensorSpec, key: str, rank: int = 0) -> Codec:
        """One end of the stream `key` of tensors of `spec`; `rank`: as `Codec.rank`."""
        codec = self.codec(self.options, spec, f"{self.site}/{key}")
        codec.rank = rank
        return Feedback(codec, self.lazy) if self.feedback else codec

    def __str__(self) -> str:
        feedback = "lazy" if self.lazy else "on" if self.feedback else "off"
        warmup = {"warmup": f"{self.warmup:g}"} if self.warmup else {}
        wrappers = {"feedback": feedback, **warmup, **self.scope.wrappers()}
        options = {**dataclasses.asdict(self.options), **wrappers, **({"of": self.of} if self.of else {})}
        return f"{self.site}={self.name}:" + ",".join(f"{key}={value}" for key, value in options.items())


def parse(text: str) -> CodecSpec:
    """One `--compress` value.

    >>> parse("pp.forward=quantize:bits=4").options.bits
    4

    Raises:
        UsageError: it is not of the form, or a site, codec, option or value is unknown or makes no sense.
    """
    site, equals, rest = text.partition("=")
    if not equals or not rest:
        raise UsageError(f"--compress {text!r} is not SITE=CODEC[:key=value,...]", "e.g. pp.forward=quantize:bits=4")
    if site not in SITES:
        raise unknown("site", site, SITES)
    name, _, listed = rest.partition(":")
    cls = codecs.get(name)
    values = _values(text, listed)
    feedback = values.pop("feedback", "off")
    if feedback not in _FEEDBACK:
        raise UsageError(f"--compress {text!r}: feedback={feedback} is neither on nor off nor lazy")
    try:
        scope = Scope.take(site, values)
    except UsageError as error:
        raise UsageError(f"--compress {text!r}: {error.what}", error.hint) from None
    warmup = _number(text, values.pop("warmup", "0"))
    of = chosen(text, site, values.pop("of", ""))
    known = [setting.name for setting in settings(cls.Options)]
    for key in values:
        if key not in known:
            raise unknown(f"option of codec {name}", key, [*known, *_WRAPPERS, *(["of"] if of else [])])
    try:
        options = build(cls.Options, values)
    except UsageError as error:
        raise UsageError(f"--compress {text!r}: {error.what}", error.hint) from None
    how = _FEEDBACK[feedback]
    reason = (
        cls.refusal(site, options)
        or (cls.feedback_refusal(options) if how != "off" else None)
        or site_refusal(site, name, cls, options, how != "off", of)
    )
    if reason:
        raise UsageError(f"--compress {text!r}: {reason}")
    return CodecSpec(
        site=site,
        name=name,
        options=options,
        feedback=how != "off",
        lazy=how == "lazy",
        warmup=warmup,
        scope=scope,
        of=of,
    )


def parse_all(texts: Iterable[str]) -> dict[str, CodecSpec]:
    """The codec of each site.

    Raises:
        UsageError: as `parse`, or a site is named twice.
    """
    found: dict[str, CodecSpec] = {}
    for text in texts:
        spec = parse(text)
        if spec.site in found:
            raise UsageError(f"--compress names site {spec.site} twice: {found[spec.site]} and {spec}")
        found[spec.site] = spec
    return found


def wired(texts: Iterable[str]) -> list[str]:
    """Those of `--compress` whose codecs are a wire's, and not trained with the model.

    >>> wired(["tp.forward=autoencoder:dim=50", "pp.forward=quantize:bits=4"])
    ['pp.forward=quantize:bits=4']
    """
    trained = {name for name, cls in codecs.all() if cls.trainable}
    return [text for text in texts if text.partition("=")[2].partition(":")[0] not in trained]


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf") or (number >= 1 and number != int(number)):
        raise UsageError(f"--compress {text!r}: warmup={value} is no number of steps or share of the run below 1")
    return number


def _values(text: str, listed: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for item in filter(None, listed.split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise UsageError(f"--compress {text!r}: {item!r} is not key=value")
        if key in values:
            raise UsageError(f"--compress {text!r}: {key} is given twice")
        values[key] = value
    return values
