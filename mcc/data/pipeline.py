"""Steps declared in a TOML file: what `mcc data run` does, before anything is done.

    [vars]                         # any string may hold {dump}; --set dump=FILE replaces it
    dump = "enwiki.xml.bz2"

    [read]                         # for all steps that read documents
    max_errors = 10

    [[step]]
    step = "wiki"                  # a kind of step (mcc.data.pipelines.stage); all other keys are its settings
    input = "{dump}"               # a path, a pattern or a list; default: the documents of the step before

    [[step]]
    step = "clean"
    name = "good"                  # default: the kind; {good} is its output, {good.rejects} a file beside it
    output = "good.jsonl.gz"       # default: NN-name.jsonl.zst; below the folder of the run
    filters = ["ftfy", "language"]

A path of an input is as on the command line: from where the command runs. Outputs are below the run's folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from mcc.core.config import build, option, read_toml
from mcc.core.errors import MccError, UsageError, nearest, unknown
from mcc.data.base.streams import expand
from mcc.data.pipelines.stage import STAGES, Call

_TABLES = ("step", "vars", "read", "report", "cluster")
_OWN_KEYS = ("step", "name", "input", "output")
_PLACE = re.compile(r"\{([A-Za-z_][\w.-]*)\}")
_NAME = re.compile(r"[A-Za-z0-9_][\w-]*")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What is measured of the documents that each step leaves.

    Raises:
        UsageError: a number is negative.
    """

    measure: bool = option(True, "look at the documents that each step leaves: one more pass over each file")
    tokenizer: str | None = option(None, "tokenizer that counts tokens [the one of the step preprocess, else words]")
    sample: int = option(1000, "documents whose tokens are counted, about; 0: all")
    languages: int = option(200, "documents whose language is told, about")
    examples: int = option(3, "rejected documents shown for each reason")

    def __post_init__(self) -> None:
        for name in ("sample", "languages", "examples"):
            if getattr(self, name) < 0:
                raise UsageError(f"report.{name} = {getattr(self, name)} must not be negative")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What the machines of `--executor slurm` and `ray` are asked for.

    Raises:
        UsageError: a number is not positive.
    """

    tasks: int | None = option(None, "shards of a phase")
    cpus_per_task: int = option(1, "cores of a shard")
    mem_per_cpu_gb: float = option(2, "memory of a core, GB")
    time: str = option("24:00:00", "Slurm: time limit of a shard")
    partition: str = option("", "Slurm: partition")
    qos: str = option("", "Slurm: quality of service")
    env_command: str = option(
        "", "Slurm: command that makes mcc available, for example one that activates an environment"
    )
    sbatch_args: Mapping[str, str] = field(default_factory=dict)
    max_array_size: int = option(1001, "Slurm: largest array of jobs")
    poll_s: float = option(5.0, "Slurm: seconds between looks at the state of jobs")
    address: str | None = option(None, "Ray: address of a running cluster; default: one is started here")

    def __post_init__(self) -> None:
        for name in ("tasks", "cpus_per_task", "mem_per_cpu_gb", "max_array_size", "poll_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"cluster.{name} = {value} must be above 0")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One step with everything it needs.

    Args:
        number: from 1.
        name: of the step, unique; `stage`: its kind.
        call: its files. `config`: its settings, checked.
        after: names of the earlier steps whose files it reads.
    """

    number: int
    name: str
    stage: str
    call: Call
    config: Any
    after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The steps in order.

    Args:
        file: where they are declared. `folder`: where the outputs go.
    """

    file: Path
    folder: Path
    steps: tuple[Planned, ...]
    report: ReportConfig = field(default_factory=ReportConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    variables: Mapping[str, str] = field(default_factory=dict)


def load(file: str | Path, folder: str | Path | None = None, variables: Mapping[str, str] | None = None) -> Pipeline:
    """Read and check a pipeline.

    Args:
        folder: for the outputs; default: a folder named like the file, where the command runs.
        variables: replace those of the table `vars`.

    Raises:
        UsageError: the file is not TOML, or a step, a key or a name is unknown (the nearest is suggested).
        MccError: a file that no step writes does not exist.
    """
    path = Path(file)
    tables = read_toml(path)
    _refuse(path, tables, _TABLES)
    found = _variables(path, tables.get("vars", {}), variables or {})
    steps = tables.get("step", [])
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise UsageError(f"{path}: no steps", 'declare each in a table [[step]] with step = "NAME"')
    root = Path(folder) if folder is not None else Path(path.stem)
    planner = _Planner(path, root, found, tables.get("read", {}))
    planned = tuple(planner.plan(number, dict(step)) for number, step in enumerate(steps, 1))
    _refuse_equal_outputs(path, planned)
    return Pipeline(
        file=path,
        folder=root,
        steps=planned,
        report=_section(path, "report", ReportConfig, planner.filled("report", tables.get("report", {}))),
        cluster=_section(path, "cluster", ClusterConfig, tables.get("cluster", {})),
        variables=found,
    )


class _Planner:
    """Goes through the steps; knows the files of those that came before."""

    def __init__(self, path: Path, folder: Path, variables: Mapping[str, str], read: Mapping[str, Any]) -> None:
        self._path, self._folder, self._read = path, folder, read
        self._variables = variables
        self._places: dict[str, str] = dict(variables)
        self._owners: dict[str, str] = {}
        self._documents: str | None = None  # output of the last step that leaves documents

    def plan(self, number: int, table: dict[str, Any]) -> Planned:
        kind = table.pop("step", None)
        if not isinstance(kind, str):
            raise UsageError(f"{self._path}: step {number} has no kind", f"step = one of {', '.join(STAGES.names())}")
        try:
            stage = STAGES.get(kind)
        except UsageError as error:
            raise UsageError(f"{self._path}: step {number}: {error.what}", error.hint) from None
        kind = kind.replace("_", "-")
        name = table.pop("name", kind)
        where = f"{self._path}: step {number} ({name})"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(f"{where}: name {name!r}", "letters, digits, - and _")
        if name in self._owners.values() or name in self._places:
            raise UsageError(f"{where}: there is a {name!r} already", 'give the step another name: name = "..."')
        table = self.filled(where, table)
        inputs, given = self._inputs(where, table.pop("input", None)), table.pop("output", None)
        output = self._below(where, given if given is not None else f"{number:02d}-{name}{stage.ending}")
        sides = self._sides(where, table, stage.sides, output, stage.ending)
        config = self._config(where, stage.Config, table, [*_OWN_KEYS, *stage.sides])
        after = tuple(
            dict.fromkeys(self._owners[text] for text in [*inputs, *_strings(config)] if text in self._owners)
        )
        call = Call(inputs=inputs, output=output, sides=sides)
        self._places[name] = str(output)
        self._owners[str(output)] = name
        for side, side_path in sides.items():
            self._places[f"{name}.{side}"] = str(side_path)
            self._owners[str(side_path)] = name
        if stage.records:
            self._documents = str(output)
        return Planned(number=number, name=name, stage=kind, call=call, config=config, after=after)

    def filled(self, where: str, value: Any) -> Any:
        """`value` with every {name} replaced."""
        if isinstance(value, str):
            return _PLACE.sub(lambda found: self._place(where, found[1]), value)
        if isinstance(value, list):
            return [self.filled(where, item) for item in value]
        if isinstance(value, Mapping):
            return {key: self.filled(where, item) for key, item in value.items()}
        return value

    def _place(self, where: str, name: str) -> str:
        if name not in self._places:
            error = unknown("name in braces", name, self._places)
            hint = "braces hold a variable of [vars] or an earlier step" + (f"; {error.hint}" if self._places else "")
            raise UsageError(f"{where}: {error.what}", hint)
        return self._places[name]

    def _inputs(self, where: str, given: Any) -> tuple[str, ...]:
        if given is None:
            if self._documents is None:
                raise UsageError(f"{where}: no input", 'the first step needs one: input = "FILE"')
            return (self._documents,)
        inputs = [given] if isinstance(given, str) else given
        if not isinstance(inputs, list) or not inputs or not all(isinstance(item, str) for item in inputs):
            raise UsageError(f"{where}: input = {given!r}", "a path, a pattern, or a list of them")
        found: list[str] = []
        for item in inputs:
            if item in self._owners:
                found.append(item)
            elif Path(item).is_dir():
                found += [str(path) for path in sorted(Path(item).iterdir()) if path.is_file()]
            else:
                try:
                    found += [str(path) for path in expand([item])]
                except MccError as error:
                    held = next((name for name, value in self._variables.items() if value and value in item), None)
                    hint = error.hint if held is None else f"{error.hint}, or give another: --set {held}=FILE"
                    raise type(error)(f"{where}: {error.what}", hint) from None
        if not found:
            raise UsageError(f"{where}: no files in {', '.join(inputs)}", "give a folder that holds some")
        return tuple(found)

    def _below(self, where: str, name: Any) -> Path:
        if not isinstance(name, str) or not name:
            raise UsageError(f"{where}: output = {name!r}", "a file's name")
        return self._folder / name

    def _sides(
        self, where: str, table: dict[str, Any], known: Mapping[str, str | None], output: Path, ending: str
    ) -> dict[str, Path]:
        sides = {}
        for side, default in known.items():
            if side in table:
                sides[side] = self._below(where, table.pop(side))
            elif default is not None:
                stem = output.name.removesuffix(ending) if ending else output.name
                sides[side] = output.with_name(stem + default)
        return sides

    def _config(self, where: str, cls: type, table: dict[str, Any], own: list[str]) -> Any:
        if self._read and "read" in get_type_hints(cls):
            table["read"] = {**self._read, **table.get("read", {})}
        known = [*get_type_hints(cls), *own]
        for key in table:
            if key not in known:
                close = nearest(key, known)
                guess = f"; did you mean {close!r}?" if close else ""
                raise UsageError(f"{where}: unknown key {key!r}{guess}", f"known: {', '.join(sorted(known))}")
        return _section(self._path, where.removeprefix(f"{self._path}: "), cls, table)


def _section(path: Path, where: str, cls: type, table: Any) -> Any:
    if not isinstance(table, Mapping):
        raise UsageError(f"{path}: {where} is no table")
    try:
        return build(cls, table)
    except UsageError as error:
        raise UsageError(f"{path}: {where}: {error.what.removeprefix('configuration: ')}", error.hint) from None


def _variables(path: Path, table: Any, given: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(table, Mapping):
        raise UsageError(f"{path}: vars is no table")
    for name in given:
        if name not in table:
            raise unknown("variable", name, table)
    return {name: str(value) for name, value in {**table, **given}.items()}


def _refuse(path: Path, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            close = nearest(key, known)
            guess = f"; did you mean {close!r}?" if close else ""
            raise UsageError(f"{path}: unknown table {key!r}{guess}", f"known: {', '.join(known)}")


def _refuse_equal_outputs(path: Path, steps: tuple[Planned, ...]) -> None:
    owners: dict[Path, str] = {}
    for step in steps:
        for output in (step.call.output, *step.call.sides.values()):
            other = owners.setdefault(output.resolve(), step.name)
            if other != step.name:
                raise UsageError(f"{path}: {other!r} and {step.name!r} both write {output}", "name another output")


def _strings(config: Any) -> list[str]:
    """Every string in the settings."""
    from mcc.core.config import plain

    found: list[str] = []

    def look(value: Any) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, Mapping):
            for item in value.values():
                look(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                look(item)

    look(plain(config))
    return found
