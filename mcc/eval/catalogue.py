"""From a task's name to what the harness runs: our description over a local file, or the harness's own task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mcc.core.errors import MccError, UsageError, nearest
from mcc.core.events import SILENT, Reporter
from mcc.eval.described import SUFFIX, describe
from mcc.eval.quiet import quiet
from mcc.eval.task import read_documents, tasks

# The harness's own seed for drawing few-shot examples.
FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class Entry:
    """A task that may be run.

    Args:
        name: as the user gave it.
        loaded: what the harness's evaluator takes: its task objects, and the groups that they form.
        source: the local file, or None when the harness downloads its own data.
    """

    name: str
    loaded: Mapping[str, Any]
    source: Path | None


def parse_task_files(names: Sequence[str], given: Iterable[str]) -> dict[str, Path]:
    """Task -> file from `NAME=FILE` words; a bare `FILE` belongs to the only task.

    >>> parse_task_files(["piqa"], ["valid.jsonl"])
    {'piqa': PosixPath('valid.jsonl')}

    Raises:
        UsageError: a bare file with several tasks, a task that is not asked for, or a task given twice.
    """
    files: dict[str, Path] = {}
    for word in given:
        name, equals, path = word.partition("=")
        if not equals or (name not in names and Path(word).exists()):
            if len(names) != 1:
                raise UsageError(f"--task-file {word}: which of {', '.join(names)}?", f"--task-file {names[0]}={word}")
            name, path = names[0], word
        if name not in names:
            raise UsageError(f"--task-file {word}: task {name!r} is not among --tasks {','.join(names)}")
        if name in files:
            raise UsageError(f"--task-file gives {name} twice: {files[name]} and {path}")
        files[name] = Path(path)
    return files


def check_names(names: Sequence[str]) -> None:
    """Refuse an empty list, and a task asked for twice.

    Raises:
        UsageError: so it is.
    """
    if not names:
        raise UsageError("no task is named", f"--tasks NAME,NAME with names such as {', '.join(tasks.names())}")
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UsageError(f"task {twice[0]!r} is named twice")


def entries(
    names: Sequence[str], files: Mapping[str, Path], num_fewshot: int | None = None, reporter: Reporter = SILENT
) -> list[Entry]:
    """Everything asked for, in order; local files are read and checked first.

    Args:
        names: tasks.
        files: task -> local file; the others are the harness's own, which it downloads.
        num_fewshot: examples before each document, [the task's own number, or none].

    Raises:
        UsageError: an unknown task.
        MccError: a file is malformed, or a data set cannot be downloaded.
    """
    check_names(names)
    local = {name: _local(name, Path(files[name]), num_fewshot) for name in names if name in files}
    online = _online([name for name in names if name not in files], num_fewshot, reporter)
    return [local.get(name) or online[name] for name in names]


def _local(name: str, file: Path, num_fewshot: int | None) -> Entry:
    task, documented = describe(file) if file.suffix == SUFFIX else (tasks.get(name)(), file)
    documents = read_documents(task, documented)
    if num_fewshot and num_fewshot >= len(documents):
        raise MccError(
            f"{file} has {len(documents)} documents: too few for {num_fewshot} examples beside the one that is scored",
            f"--num-fewshot {len(documents) - 1} at most",
        )
    import datasets
    from lm_eval.api.task import ConfigurableTask

    class LocalTask(ConfigurableTask):
        """The harness's task over documents in memory: nothing is downloaded and nothing cached."""

        def download(self, *_: Any, **__: Any) -> None:
            self.dataset = {"test": datasets.Dataset.from_list(documents)}

    with quiet():
        built = LocalTask(config=task.config(name))
    _configure(built, num_fewshot)
    return Entry(name, {"tasks": {name: built}, "groups": {}, "group_map": {}}, file)


def _online(names: Sequence[str], num_fewshot: int | None, reporter: Reporter) -> dict[str, Entry]:
    for name in names:
        if name.replace("_", "-") in tasks.names() and not tasks.get(name).online:
            raise UsageError(f"task {name!r} needs a file", f"--task-file {name}=FILE")
    if not names:
        return {}
    found = {}
    with quiet():
        with reporter.task("index the harness's tasks"):
            manager = _harness_index()
        for name in names:
            if name not in manager.all_tasks:
                raise _unknown(name, manager.all_tasks)
        for name in names:
            with reporter.task(f"load {name}"):
                loaded = _download(manager, name)
            for task in loaded["tasks"].values():
                _configure(task, num_fewshot)
            found[name] = Entry(name, loaded, None)
    return found


@cache
def _harness_index() -> Any:
    """The harness's index of its own tasks: 15,000 files, several seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _download(manager: Any, name: str) -> Mapping[str, Any]:
    try:
        loaded: Mapping[str, Any] = manager.load([name])
    except Exception as error:  # whatever a data set's loader raises: no network, a moved data set, a missing package
        hint = f"score a local copy: --task-file {name}=FILE" if name in tasks.names() else "check the network"
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MccError(f"task {name}: its data could not be loaded: {first}", hint) from error
    return loaded


def _configure(task: Any, num_fewshot: int | None) -> None:
    """The harness's rule: a task that insists on no examples keeps none."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _unknown(name: str, online: Iterable[str]) -> UsageError:
    # Of 15,000 names only those of like length can be near.
    close = nearest(name, {*tasks.names(), *(other for other in online if abs(len(other) - len(name)) <= 3)})
    guess = f"; did you mean {close!r}?" if close else ""
    return UsageError(
        f"unknown task {name!r}{guess}",
        f"with a local file: {', '.join(tasks.names())}; online: any task of lm-evaluation-harness",
    )
