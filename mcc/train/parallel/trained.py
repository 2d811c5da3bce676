"""Codecs that are trained with the model: where they stand in its stages.

    B batch   T tokens   D hidden size   Z channels that are sent

`tp.forward`: in the attention output and in the MLP's second projection of every layer, or of `layers=`, whatever the
tensor-parallel size: the model is the same in every layout, and at size 1 it merely sends nothing. The ranks sum
[B, T, Z] forward. Backward their traffic is as without the codec: nothing here (with sequence parallelism the sum's
transpose, an all-gather of [B, T/P, Z]), and where the sharded region begins a sum of [B, T, D].

`pp.forward`: at every stage boundary that is sent, the encoder at the end of the sending stage, the decoder at the
beginning of the next. Boundaries, and so these codecs, are the layout's; where neighbouring stages share a rank (V
schedules) nothing is sent and there is none. Backward the gradient of what was sent comes back, [B, T, Z].
"""

from __future__ import annotations

from collections.abc import Mapping

from mcc.core.errors import UsageError
from mcc.models.base.config import ModelConfig
from mcc.train.compress.spec import CodecSpec
from mcc.train.parallel.places import boundary_coded, coded_keys
from mcc.train.parallel.stages import Stages

_ROWS = ("attention.out", "mlp.down")


def divided(compress: Mapping[str, CodecSpec]) -> tuple[dict[str, CodecSpec], dict[str, CodecSpec]]:
    """The codecs by site, those that are trained with the model and those of a wire."""
    trained = {site: spec for site, spec in compress.items() if spec.codec.trainable}
    return trained, {site: spec for site, spec in compress.items() if site not in trained}


def channels(trained: Mapping[str, CodecSpec], stages: Stages, index: int) -> dict[str, int]:
    """The parameters of stage `index`'s trained codecs: global name -> channels that are sent."""
    found: dict[str, int] = {}
    spec = trained.get("tp.forward")
    if spec is not None:
        here = [f"layers.{layer}.{row}" for layer in stages.layers[index] for row in _ROWS]
        places = filter(coded_keys(spec, stages), here)
        found |= {f"{place}.codec.{end}": spec.options.dim for place in places for end in ("encoder", "decoder")}
    sent = boundary_channels(trained, stages)
    for boundary, end in ((index - 1, "decoder"), (index, "encoder")):
        if boundary in sent:
            found[f"boundaries.{_last(stages, boundary)}.{end}"] = sent[boundary]
    return found


def boundary_channels(trained: Mapping[str, CodecSpec], stages: Stages) -> dict[int, int]:
    """The boundaries, by the stage before, that a trained codec stands at -> channels that are sent there."""
    spec = trained.get("pp.forward")
    if spec is None:
        return {}
    return {before: spec.options.dim for before in stages.sent if boundary_coded(spec, stages, before)}


def check_trained(compress: Mapping[str, CodecSpec], model: ModelConfig, stages: Stages) -> None:
    """Refuse trained codecs that the model has no use for, or no place.

    Raises:
        UsageError: one sends no fewer channels than there are, begins after the run, or a boundary has no layer of its
            own to be named by.
    """
    trained = divided(compress)[0]
    for site, spec in trained.items():
        what = f"--compress {site}={spec.name}"
        if spec.options.dim >= model.hidden_size:
            raise UsageError(
                f"{what}:dim={spec.options.dim} sends no fewer channels than the hidden size, {model.hidden_size}",
                f"dim below {model.hidden_size}",
            )
        when = str(spec.scope.when)
        if site == "pp.forward" and (spec.warmup or when != "always"):
            raise UsageError(
                f"{what}: {f'warmup={spec.warmup:g}' if spec.warmup else f'when={when}'}, but what stages send has one "
                "shape for the whole run",
                "tp.forward alone can begin without its autoencoder",
            )
    ends = [_last(stages, before) for before in boundary_channels(trained, stages)]
    if len(set(ends)) < len(ends) or -1 in ends:
        raise UsageError(
            "--compress pp.forward=autoencoder: every stage but the last needs a layer, which its weights are named by",
            "--stages with a layer in each",
        )


def _last(stages: Stages, index: int) -> int:
    """The layer that stage `index` ends with."""
    return stages.layers[index].stop - 1
