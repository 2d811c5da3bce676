"""What a task makes of a configuration: the model's head, its classes, and the number of steps."""

from __future__ import annotations

import dataclasses
import math

from mcc.core.errors import UsageError, unknown
from mcc.core.events import SILENT, Reporter
from mcc.train.config import TrainConfig
from mcc.train.finetune.files import Examples, scored_files, training_files
from mcc.train.finetune.metrics import METRICS
from mcc.train.finetune.task import find_task


def resolve(config: TrainConfig, reporter: Reporter = SILENT) -> TrainConfig:
    """The configuration with what fine-tuning asks for filled in. Checks the task's files.

    Raises:
        UsageError, MccError: the task, its files or a line of them cannot be used.
    """
    finetune, run = config.finetune, config.run
    if finetune.enabled and not run.load:
        raise UsageError("--finetune needs the weights to start from", "--load CHECKPOINT")
    model = config.model
    if finetune.dropout is not None:
        model = dataclasses.replace(model, hidden_dropout=finetune.dropout, attention_dropout=finetune.dropout)
    if finetune.task is None:
        return dataclasses.replace(config, model=model)
    if config.data.data_path or config.data.valid_data_path:
        raise UsageError("--task and --data-path exclude each other", "--task-data has the task's texts")
    task = find_task(finetune)
    for name in task.metrics:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    allowed = task.max_errors if finetune.task_max_errors is None else finetune.task_max_errors
    examples = len(Examples(training_files(task, finetune), task, allowed, reporter))
    for paths in scored_files(task, finetune).values():
        Examples(paths, task, allowed, reporter)
    model = dataclasses.replace(model, head=task.head)
    if task.head == "classification":
        model = dataclasses.replace(model, num_labels=len(task.labels) or 1)
    if finetune.epochs:
        steps = run.sizes.steps(math.ceil(finetune.epochs * examples))
        run = dataclasses.replace(run, train_iters=max(1, steps))
    return dataclasses.replace(config, model=model, run=run)
