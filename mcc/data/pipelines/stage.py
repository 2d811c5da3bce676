"""What a pipeline may be made of: each kind of step is a plug-in that turns settings and files into a `Job`.

A new kind is one file in `mcc/data/stages` (or an entry point of the group `mcc.step`); nothing else changes.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from mcc.core.config import plain
from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.core.plugins import Kind
from mcc.data.base.job import Job, Single
from mcc.data.base.publish import Output
from mcc.data.base.step import StepReport
from mcc.data.base.streams import expand
from mcc.data.base.work import Work
from mcc.data.tokens.vocabulary import TokenizerFiles

Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class Call:
    """The files of one step: what it reads, what it leaves, and the files beside that by the stage's own names."""

    inputs: tuple[str, ...]
    output: Path
    sides: Mapping[str, Path] = field(default_factory=dict)

    def side(self, name: str) -> Path | None:
        """The file of that name, when it was asked for."""
        return self.sides.get(name)


class Stage(ABC, Generic[Settings]):
    """One kind of step.

    Attributes:
        Config: the frozen dataclass of its settings: the keys of its table in the TOML file.
        ending: what the default name of its output ends with.
        records: whether its output is documents, which the next step then reads.
        sides: files beside the output: key in the TOML file -> ending of the default name, or None when the file is
            made only if it is named (or, for rejects, only if there are any).
    """

    Config: ClassVar[type]
    ending: ClassVar[str] = ".jsonl.zst"
    records: ClassVar[bool] = True
    sides: ClassVar[Mapping[str, str | None]] = {"rejects": None}

    @abstractmethod
    def job(self, call: Call, config: Settings) -> Job[Any]:
        """The step as a job.

        Raises:
            MccError: bad settings or input, as far as can be seen before the first document.
        """

    def instead(self, config: Settings, error: MccError) -> Settings | None:
        """Settings to do all again with after `error`, which must give what `config` should have given; or None."""
        return None

    def tokenizer(self, config: Settings) -> TokenizerFiles | None:
        """The tokenizer that this step uses, which then also counts the tokens of the report."""
        return None


STAGES: Kind[Stage[Any]] = Kind("step", "mcc.data.stages", Stage)


def make_job(name: str, call: Call, config: Any) -> Job[Any]:
    """The job of the stage `name`; a top-level function, so that other machines can make the job too."""
    return STAGES.get(name)().job(call, config)


def whole(
    name: str,
    call: Call,
    config: Any,
    run: Callable[[Sequence[str | Path], Path, Any, Reporter], StepReport],
) -> Job[StepReport]:
    """A step that one process does from start to end (a cloze task) as a job of one phase.

    Args:
        run: `run(inputs, output, config, reporter)`; a module's function, so that it can be named to other machines.
    """
    output = call.output
    paths = expand(call.inputs)

    def report(_: Counter[str], work: Work) -> StepReport:
        done: StepReport = pickle.loads(work.path(_REPORT).read_bytes())
        # What leaves no documents rejects none either.
        return replace(done, outputs=(str(output),), documents_out=done.documents_out or done.documents_in)

    return Job(
        name=name,
        output=output,
        key=[plain(config), [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]],
        phases=(Single(name=name, run=partial(_run_whole, run, call, config)),),
        outputs=(Output(output, file=output.name),),
        report=report,
        inputs=paths,
    )


_REPORT = "report.pickle"


def _run_whole(
    run: Callable[[Sequence[str | Path], Path, Any, Reporter], StepReport],
    call: Call,
    config: Any,
    work: Work,
    reporter: Reporter,
) -> None:
    done = run(call.inputs, work.path(call.output.name), config, reporter)
    work.path(_REPORT).write_bytes(pickle.dumps(done))
