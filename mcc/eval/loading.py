"""A checkpoint of any format as a model and its tokenizer, ready to score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mcc.ckpt.source import Layout
from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.core.ranks import Ranks, from_environment
from mcc.eval.place import Place, join
from mcc.eval.scorer import Scorer
from mcc.eval.tokenizer import TextTokenizer, load_tokenizer
from mcc.models.base.transformer import Stage


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, or this rank's part of it, and the tokenizer that it was trained with."""

    checkpoint: Path
    model: Stage
    tokenizer: TextTokenizer
    place: Place = field(default_factory=Place)

    @contextmanager
    def leading(self, serve: Callable[[Loaded], None] | None = None) -> Iterator[None]:
        """On the rank that leads, the block; on the others, which only serve, it ends the process when the leader is
        done.

        Args:
            serve: what the others do [what a `Scorer` asks of them].

        Raises:
            SystemExit: this rank does not lead.
        """
        if not self.place.leads:
            if serve is not None:
                serve(self)
            else:
                Scorer(self.model, place=self.place).serve()
            raise SystemExit(0)
        try:
            yield
        except MccError:
            self.place.end()
            raise
        self.place.end()


def load(
    checkpoint: str | Path,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    reporter: Reporter = SILENT,
    layout: Layout | None = None,
    generates: bool = True,
) -> Loaded:
    """Read `checkpoint` in float32 whatever its format. Collective where a launcher started several ranks.

    Args:
        checkpoint: where the model is.
        tokenizer: its file [the one beside the checkpoint].
        device: as torch names it [the GPU where there is one].
        reporter: receives progress.
        layout: tensor- and pipeline-parallel sizes of a replica of the model; each rank reads its own part.
        generates: only a model of the next token will do.

    Raises:
        UsageError: there is no such device, or the layout fits neither model nor ranks.
        MccError: the checkpoint cannot be read, it is no model of the next token, there is no tokenizer, or it does
            not fit the model.
    """
    from mcc.ckpt.load import load_stage

    place = join(layout, find_device(device))
    with reporter.task(f"load {checkpoint}"):
        found = load_stage(Path(checkpoint), place.axes, place.layers)
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
    return Loaded(Path(checkpoint), model, load_tokenizer(file, found.config, reporter), place)


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
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch without CUDA asserts
        raise UsageError(f"no device {name!r} in this machine", "--device cpu") from None
    return device
