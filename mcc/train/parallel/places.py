"""What `layers=` and `stages=` of a codec mean in a model that is cut into stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from mcc.core.errors import UsageError
from mcc.models.base.config import ModelConfig
from mcc.models.base.family import Family
from mcc.train.compress.spec import CodecSpec
from mcc.train.compress.where import some
from mcc.train.parallel.stages import Stages

Selects = Callable[[str], bool]


def boundary_coded(spec: CodecSpec, stages: Stages, before: int) -> bool:
    """Whether the codec stands at the boundary between stage `before` and the next.

    Its layer is the last one before it; its stage is the one that sends.
    """
    sender = before if spec.site == "pp.forward" else before + 1
    return spec.scope.covers(stages.layers[before].stop - 1, sender, _layers(stages), len(stages))


def coded_keys(spec: CodecSpec | None, stages: Stages | None) -> Selects:
    """The test whether the codec stands at a place of a layer, such as `layers.7.mlp.down`."""

    def selects(key: str) -> bool:
        if spec is None or stages is None:
            return spec is not None
        layer = int(key.split(".")[1])
        return spec.scope.covers(layer, _stage_of(stages, layer), _layers(stages), len(stages))

    return selects


def coded_parameters(spec: CodecSpec | None, stages: Stages, family: Family) -> Selects:
    """The test whether the codec stands at a parameter's gradient.

    Embeddings belong to the first stage, final norm and heads to the last; to a layer belong neither.
    """

    def selects(name: str) -> bool:
        if spec is None:
            return False
        where = family.row(name).where
        layer = int(name.split(".")[1]) if where == "layer" else None
        stage = {"first": 0, "last": stages.last}.get(where)
        stage = _stage_of(stages, layer) if layer is not None else stage
        assert stage is not None
        return spec.scope.covers(layer, stage, _layers(stages), len(stages))

    return selects


def check_scopes(compress: Mapping[str, CodecSpec], stages: Stages, family: Family, model: ModelConfig) -> None:
    """Refuse ranges outside the model, and those that leave a codec nothing to compress.

    Raises:
        UsageError: there are some.
    """
    for site, spec in compress.items():
        scope = spec.scope
        for ranges, count, what in ((scope.layers, _layers(stages), "layers"), (scope.stages, len(stages), "stages")):
            try:
                if ranges is not None:
                    ranges.among(count)
            except UsageError as error:
                raise UsageError(f"--compress {site}: {what}={ranges.text}: {error.what}", error.hint) from None  # type: ignore[union-attr]
        if scope.layers is None and scope.stages is None:
            continue
        if site.startswith("pp."):
            sent = stages.sent
            nothing = bool(sent) and not any(boundary_coded(spec, stages, before) for before in sent)
            there = f"boundaries lie after layers {some([stages.layers[before].stop - 1 for before in sent])}"
            senders = [before + (site == "pp.backward") for before in sent]
            there += f", stages {some(senders)} send"
        elif site.startswith(("tp.", "cp.")):
            selects = coded_keys(spec, stages)
            nothing = not any(selects(f"layers.{layer}") for layer in range(_layers(stages)))
            there = _stages(stages)
        else:
            nothing = not any(map(coded_parameters(spec, stages, family), _names(family, model)))
            there = _stages(stages)
        if nothing:
            given = ", ".join(f"{key}={value}" for key, value in scope.wrappers().items() if key != "when")
            raise UsageError(f"--compress {site}: {given} leaves nothing to compress: {there}")


def _names(family: Family, model: ModelConfig) -> Iterable[str]:
    return (name for name, _, _ in family.table(model))


def _layers(stages: Stages) -> int:
    return stages.layers[-1].stop


def _stage_of(stages: Stages, layer: int) -> int:
    return next(index for index, layers in enumerate(stages.layers) if layer in layers)


def _stages(stages: Stages) -> str:
    return "stages have the layers " + "; ".join(some(layers) for layers in stages.layers)
