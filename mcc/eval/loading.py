"""A checkpoint of any format as a model and its tokenizer, ready to score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcc.ckpt.source import Layout, Meta
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.ranks import Ranks, from_environment
from mcc.eval.generation.batches import COMMAND, Batches
from mcc.eval.place import Place, ShardedAxes, join
from mcc.eval.scorer import Scorer
from mcc.eval.tokenizer import TextTokenizer, load_tokenizer
from mcc.models.base.transformer import Stage

# (checkpoint's description, tensor-parallel size, rank, group) -> codecs between layers, by the layer before; the sum
# over tensor-parallel ranks, or None; their names.
Codecs = Callable[
    [Meta, int, int, Any], tuple[dict[int, nn.Module], Callable[[Tensor, str], Tensor] | None, tuple[str, ...]]
]


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, or this rank's part of it, and the tokenizer that it was trained with.

    `coding` names the codecs that what is sent forward goes through, as it did in training.
    """

    checkpoint: Path
    model: Stage
    tokenizer: TextTokenizer
    place: Place = field(default_factory=Place)
    coding: tuple[str, ...] = ()

    @contextmanager
    def leading(self, serve: Callable[[Loaded], None] | None = None) -> Iterator[None]:
        """On the rank that leads, the block; on the others, which only serve, it ends the process when the leader is
        done.

        Args:
            serve: what the others do [what a `Scorer` or `Batches` asks of them].

        Raises:
            SystemExit: this rank does not lead.
        """
        if not self.place.leads:
            (serve or Loaded._serve)(self)
            raise SystemExit(0)
        try:
            yield
        except MccError:
            self.place.end()
            raise
        self.place.end()

    def _serve(self) -> None:
        scorer = Scorer(self.model, place=self.place)
        batches = Batches(self.model, self.tokenizer, self.place)

        def work(command: str, items: Sequence[Any]) -> Sequence[Any]:
            return batches.work(command, items) if command == COMMAND else scorer.work(command, items)

        self.place.serve(work)


def load(
    checkpoint: str | Path,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    reporter: Reporter = SILENT,
    layout: Layout | None = None,
    generates: bool = True,
    codecs: Codecs | None = None,
    trained: bool = True,
) -> Loaded:
    """Read `checkpoint` in float32 whatever its format. Collective where a launcher started several ranks.

    Args:
        checkpoint: where the model is.
        tokenizer: its file [the one beside the checkpoint].
        device: as torch names it [the GPU where there is one].
        reporter: receives progress.
        layout: tensor- and pipeline-parallel sizes of a replica of the model; each rank reads its own part.
        generates: only a model of the next token will do.
        codecs: finds the codecs of the run that trained the model, which then stand where they stood in training
            (`mcc.train.inference.forward_codecs`).
        trained: with the codecs that are weights of the model; without them it is as if nothing had been compressed.

    Raises:
        UsageError: there is no such device, or the layout fits neither model nor ranks.
        MccError: the checkpoint cannot be read, it is no model of the next token, there is no tokenizer, or it does
            not fit the model.
    """
    from mcc.ckpt.load import load_stage

    place = join(layout, find_device(device))
    with reporter.task(f"load {checkpoint}"):
        found = load_stage(Path(checkpoint), place.axes, place.layers, trained=trained)
    config = found.config
    if generates and (config.head != "lm" or not found.model.blueprint.causal):
        raise MccError(
            f"{checkpoint} is a {config.family} with the head {config.head}: it does not predict the next token",
            "give a GPT or a Llama with the head lm",
        )
    file = tokenizer or found.tokenizer_file
    if file is None:
        raise MccError(f"{checkpoint}: no tokenizer beside the checkpoint", "name its file: --tokenizer FILE")
    model = found.model.to(place.device)
    coding = () if codecs is None else _insert(codecs, found.model, found.meta, place, Path(checkpoint))
    return Loaded(Path(checkpoint), model, load_tokenizer(file, found.config, reporter), place, coding)


def _insert(codecs: Codecs, model: Stage, meta: Meta, place: Place, checkpoint: Path) -> tuple[str, ...]:
    """Put a run's codecs where they stood in training; gives their names."""
    group = place.axes.group if isinstance(place.axes, ShardedAxes) else None
    between, total, names = codecs(meta, place.axes.size, place.axes.rank, group)
    if not names and not meta.extra.get("compress"):
        raise UsageError(
            f"{checkpoint} does not say what was compressed in training: --codec has no effect",
            "give the run's own checkpoint, of a run with --compress",
        )
    for layer, codec in between.items():
        if str(layer) in model.layers:
            assert str(layer) not in model.boundaries, "a boundary has one codec"
            model.boundaries[str(layer)] = codec
    if isinstance(place.axes, ShardedAxes):
        place.axes.total = total
    return names


def is_leader() -> bool:
    """Whether this process will lead: it was started alone, or as rank 0."""
    return (from_environment() or Ranks()).rank == 0


def find_device(name: str | None = None) -> torch.device:
    """The device called `name`, or the first GPU, or else the CPU.

    Raises:
        UsageError: torch knows no such device, or it is not in this machine.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # a device without memory, `meta`, has no numbers
    except (RuntimeError, AssertionError, NotImplementedError):  # torch without CUDA asserts
        raise UsageError(f"no device {name!r} in this machine", "--device cpu") from None
    return device
