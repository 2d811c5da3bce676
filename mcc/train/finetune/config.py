"""What a fine-tuning run is told. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from mcc.core.config import option
from mcc.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A task, its files, and how long.

    Raises:
        UsageError: options of a task without a task, or a number below 0.
    """

    enabled: bool = option(
        False,
        "start from --load's weights alone: step 0, a fresh optimizer, and a head of its own where it has another",
        flag="--finetune",
    )
    task: str | None = option(None, "fine-tune on labelled texts: a GLUE task, race, classification or multiple-choice")
    task_data: str | None = option(None, "the task's folder, or its training file (.tsv or .jsonl)")
    task_valid_data: str | None = option(None, "file that is scored after every epoch [of the folder]")
    dropout: float | None = option(None, "of hidden states and of attention weights alike [--load's]")
    epochs: float = option(3.0, "passes over the task's training file; 0: --train-iters steps")
    text_a: str | None = option(None, "column of the text, or of the first one (task classification)")
    text_b: str | None = option(None, "column of the second text, if there is one")
    label: str | None = option(None, "column of the label [label]")
    labels: str | None = option(None, "names of the classes, as a,b,c; none: the label is a number")
    task_metrics: str | None = option(None, "accuracy, f1, matthews, pearson, spearman: some of them, as a,b")
    task_max_errors: int | None = option(None, "lines of a task's file that may be bad [the task's own; mostly 0]")

    def __post_init__(self) -> None:
        if not 0 <= (self.dropout or 0) < 1:
            raise UsageError(f"dropout = {self.dropout} is no probability below 1")
        if self.epochs < 0 or (self.task_max_errors or 0) < 0:
            raise UsageError(f"epochs = {self.epochs}, task_max_errors = {self.task_max_errors} must not be negative")
        given = [name for name in ("task_data", "task_valid_data", "text_a", "label", "labels") if getattr(self, name)]
        if self.task is None and given:
            raise UsageError(f"--{given[0].replace('_', '-')} without a task", "--task NAME")
        if self.task is not None and self.task_data is None:
            raise UsageError(f"--task {self.task} needs its files", "--task-data FOLDER or FILE")

    @property
    def from_weights(self) -> bool:
        """Whether the run begins with another's weights alone, and may have another head."""
        return self.enabled or self.task is not None
