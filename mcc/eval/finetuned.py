"""What a fine-tuned model says of labelled texts: logits of classes, one logit of each choice, or a number.

B rows: texts, or pairs   T tokens   C what the head computes of a row
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcc.core.errors import MccError, unknown
from mcc.core.events import SILENT, Reporter
from mcc.eval.loading import Loaded
from mcc.models.base.extras import Extras

Rows = Mapping[str, NDArray[Any]]


def predict(loaded: Loaded, batches: Iterable[Rows], total: int, reporter: Reporter = SILENT) -> NDArray[np.float32]:
    """The head's outputs [rows, C] of all batches, in order. On the leader; the others `serve`.

    Args:
        loaded: a model with the head classification or multiple-choice.
        batches: `tokens` and `token_types` int64[B, T], `padding` bool[B, T], True where a token is.
        total: rows, for the progress.
        reporter: receives it.
    """
    place, found = loaded.place, []
    pending: list[Rows] = []
    with reporter.task("score", total=total, unit="rows") as task:

        def flush() -> None:
            for outputs in place.share("predict", pending, work(loaded)):
                found.append(outputs)
                task.advance(len(outputs))
            pending.clear()

        for batch in batches:
            pending.append(batch)
            if len(pending) == place.layout.dp * place.layout.pp:
                flush()
        if pending:
            flush()
    return np.concatenate(found)


def serve(loaded: Loaded) -> None:
    """What ranks that do not lead do until `predict`'s caller ends it."""
    loaded.place.serve(work(loaded))


def work(loaded: Loaded) -> Any:
    """This rank's part of `predict`."""
    model, place = loaded.model, loaded.place

    @torch.inference_mode()
    def run(_: str, batches: Sequence[Rows]) -> list[NDArray[np.float32]]:
        results, sent = [], []
        for batch in batches:
            here = {name: torch.from_numpy(values).to(place.device) for name, values in batch.items()}
            extras = Extras(here["padding"], here["token_types"])
            x = here["tokens"]
            if not model.first:
                shape = (*x.shape, model.config.hidden_size)
                x = place.receive(shape, next(model.parameters()).dtype)
            hidden_BTD = model.hidden(x, extras)
            if not model.last:
                sent.append(place.send(hidden_BTD))
                results.append(np.empty((0, 1), dtype=np.float32))
                continue
            out = model.head(hidden_BTD, extras)
            assert isinstance(out, torch.Tensor)
            results.append(out.float().cpu().numpy())
        for handle, _ in sent:
            handle.wait()
        return results

    return run


def require_head(loaded: Loaded, head: str, classes: int) -> None:
    """Refuse a model that was not fine-tuned for such a task.

    Raises:
        MccError: its head is another, or it has another number of classes.
    """
    config = loaded.model.config
    if config.head != head:
        raise MccError(
            f"{loaded.checkpoint} has the head {config.head}, but the task needs {head}",
            "fine-tune it: mcc train --task NAME --task-data FOLDER --load CKPT",
        )
    if head == "classification" and config.num_labels != classes:
        raise MccError(f"{loaded.checkpoint} tells {config.num_labels} classes apart, but the task has {classes}")


def metric(name: str, outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    """A score by scikit-learn (accuracy, f1, matthews) or SciPy (pearson, spearman).

    Args:
        name: of the metric.
        outputs: [M, C], logits of C classes, or numbers[M, 1] where labels are numbers.
        labels: [M], classes or numbers.

    Raises:
        UsageError: there is no such metric.
    """
    from scipy import stats
    from sklearn import metrics

    known = {
        "accuracy": metrics.accuracy_score,
        "f1": lambda t, p: metrics.f1_score(t, p, pos_label=1, average="binary", zero_division=0.0),
        "matthews": metrics.matthews_corrcoef,
        "pearson": lambda t, p: stats.pearsonr(t, p).statistic,
        "spearman": lambda t, p: stats.spearmanr(t, p).statistic,
    }
    if name not in known:
        raise unknown("metric", name, known)
    predicted = outputs[:, 0] if np.issubdtype(labels.dtype, np.floating) else outputs.argmax(-1)
    if name in ("matthews", "pearson", "spearman") and (
        len(labels) < 2 or np.ptp(predicted) == 0 or np.ptp(labels) == 0
    ):
        return 0.0  # no correlation where one does not vary
    return float(known[name](labels, predicted))
