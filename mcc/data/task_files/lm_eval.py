"""The task file `lm-eval:NAME`: a task of lm-evaluation-harness, by its own queries."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any, ClassVar

from mcc.core.errors import MccError, UsageError, nearest
from mcc.data.ngrams.task_texts import TaskTexts, follow

_EXAMPLE = "lm-eval:hellaswag"


class LmEval(TaskTexts):
    """A task, group or tag of lm-evaluation-harness: what it would ask; the file is a folder of task YAMLs, if any."""

    needs_file: ClassVar[bool] = False

    def texts(self, path: str | None, key: str | None = None, name: str = "") -> Iterator[str]:
        """The decontamination query of every document that is scored, or its context where the task has none.

        Raises:
            UsageError: the harness has no such task.
            MccError: its data cannot be loaded.
        """
        if not name:
            raise UsageError("task lm-eval: which task of the harness?", f"--task {_EXAMPLE}")
        for task in _tasks(name, path):
            documents = list(task.eval_docs)
            for document in documents:
                found = list(follow(document, key)) if key is not None else _queries(task, document)
                if key is not None and not found:
                    has = ", ".join(map(repr, document))
                    raise MccError(f"task lm-eval:{name}: no text under {key} (there is {has})", "give another key")
                yield from found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, nothing is printed, and there are no bars."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _tasks(name: str, folder: str | None) -> list[Any]:
    with _quiet():
        # Here, not above: the harness takes seconds, and brings what no other step needs.
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=folder, include_defaults=False) if folder else TaskManager()
        if folder and name not in manager.all_tasks:
            manager = TaskManager(include_path=folder)
        if name not in manager.all_tasks:
            close = nearest(name, (other for other in manager.all_tasks if abs(len(other) - len(name)) <= 3))
            guess = f"; did you mean {close!r}?" if close else ""
            raise UsageError(f"lm-evaluation-harness has no task {name!r}{guess}", "lm-eval ls tasks lists them")
        try:
            loaded = manager.load([name])
        except Exception as error:  # whatever a loader raises: no network, a moved data set, a missing package
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            raise MccError(
                f"task lm-eval:{name}: its data could not be loaded: {first}", "check the network"
            ) from error
    return list(loaded["tasks"].values())


def _queries(task: Any, document: Any) -> list[str]:
    query = task.config.doc_to_decontamination_query if task.should_decontaminate() else None
    if isinstance(query, str) and query not in document:
        from lm_eval.utils import apply_template

        found = apply_template(query, document)
    elif query is not None:
        found = document[query] if isinstance(query, str) else query(document)
    else:
        found = task.doc_to_text(document)
    if isinstance(found, int):  # the contexts are the choices, and this is the number of the right one
        found = task.doc_to_choice(document)
    return [str(text) for text in found] if isinstance(found, list) else [str(found)]
