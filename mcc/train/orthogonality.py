"""`--check-orthogonality`: what the first replica's stages measure, written down as `RUN/orthogonality.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist

from mcc.train.engine import Engine
from mcc.train.metrics import ORTHOGONALITY, MetricsFile


class Measurements:
    """Begins to measure at an engine's stages; see `mcc.train.compress.orthogonality`.

    Args:
        engine: of this rank. Only the first replica's, of the first tensor- and context-parallel rank, measures.
        group: takes objects.
    """

    def __init__(self, engine: Engine, group: dist.ProcessGroup | None = None) -> None:
        mesh, run = engine.mesh, engine.config.run
        first = mesh.tp_rank == mesh.dp_rank == mesh.cp_rank == 0
        self.probes = engine.pipeline.measure_orthogonality() if first else []
        self.group, self.file = group, None
        if dist.get_rank() == 0:
            assert run.save is not None
            self.file = MetricsFile(Path(run.save), engine.iteration, ORTHOGONALITY)

    def write(self) -> None:
        """Append a line for each measurement since the last call, of all stages. Collective."""
        mine = [line for probe in self.probes for line in probe.take()]
        gathered: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(gathered, mine, group=self.group)
        if self.file is not None:
            lines = (line for theirs in gathered for line in theirs)
            for line in sorted(lines, key=lambda line: (line["step"], line["boundary"], line["microbatch"])):
                self.file.append(line)
