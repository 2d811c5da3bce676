"""The data of a run: what it trains on, what it is scored on, and by which objective.

Which samples a step takes depends on the samples consumed before it alone, never on the layout.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from tokenizers import Tokenizer

from mcc.core.errors import MccError, UsageError
from mcc.core.events import SILENT, Reporter
from mcc.data.training.blends import Blend
from mcc.data.training.fixed import FixedOrder
from mcc.data.training.masking import Vocabulary
from mcc.data.training.open import Wanted, open_bert, open_fixed, open_gpt
from mcc.models.base.family import families
from mcc.train.config import TrainConfig
from mcc.train.finetune.encode import Encoder
from mcc.train.finetune.files import Examples, scored_files, training_files
from mcc.train.finetune.metrics import score
from mcc.train.finetune.task import find_task
from mcc.train.objective import Objective, objective_of, objectives
from mcc.train.sources.examples import ScoredExamples, TrainingExamples, check_vocabulary
from mcc.train.sources.source import Evaluation, Source
from mcc.train.sources.tokens import CausalTokens, FixedTokens, MaskedTokens


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The data of a run.

    Attributes:
        objective: what the model's output is measured by.
        train: the samples to train on.
        evaluations: what the model is scored on.
        epoch_samples: samples of an epoch in fine-tuning, which is scored when one has passed; else None.
    """

    objective: Objective
    train: Source
    evaluations: tuple[Evaluation, ...] = ()
    epoch_samples: int | None = None

    @property
    def rows(self) -> int:
        """Rows of tokens of a sample."""
        return self.train.rows

    @property
    def seq_length(self) -> int:
        """Tokens of a row."""
        return self.train.seq_length

    def epoch_ended(self, before: int, after: int) -> bool:
        """Whether an epoch ended while the samples consumed went from `before` to `after`."""
        return self.epoch_samples is not None and before // self.epoch_samples != after // self.epoch_samples

    def epoch(self, samples: int) -> dict[str, float]:
        """`epoch`, the passes over the task's examples that `samples` samples are; nothing without a task."""
        return {} if self.epoch_samples is None else {"epoch": round(samples / self.epoch_samples, 2)}


def open_data(config: TrainConfig, tokenizer: str | None = None, reporter: Reporter = SILENT) -> RunData:
    """The data of a resolved configuration. Every rank calls it; indices are built by one of them and mapped by all.

    Args:
        config: with the task's settings filled in (`mcc.train.finetune.resolve`).
        tokenizer: JSON; needed for BERT and for tasks.
        reporter: hears of indices that are built and of bad lines.

    Raises:
        UsageError, MccError: files are missing, foreign, or hold too little.
    """
    families.get(config.model.family)().check(config.model)
    objective = objectives.get(objective_of(config.model))()
    if config.finetune.task is not None:
        return _task_data(config, _required(tokenizer, f"task {config.finetune.task}"), objective, reporter)
    if config.model.head not in ("lm", "pretraining"):
        raise UsageError(f"head {config.model.head} is trained on labelled texts", "--task NAME --task-data FOLDER")
    run = config.run
    train = _token_source(config, tokenizer, run.samples, "train", reporter)
    assert train is not None
    evaluations: tuple[Evaluation, ...] = ()
    if run.eval_iters:
        count = run.eval_iters * run.global_batch_size
        held_out = _token_source(config, tokenizer, count, "valid", reporter)
        evaluations = () if held_out is None else (Evaluation("heldout", held_out, count),)
    return RunData(objective=objective, train=train, evaluations=evaluations)


def _causal(config: TrainConfig) -> bool:
    return families.get(config.model.family).blueprint.causal


def _token_source(
    config: TrainConfig, tokenizer: str | None, count: int, part: str, reporter: Reporter
) -> Source | None:
    """Samples of token files; None when nothing is held out."""
    data, model = config.data, config.model
    if not data.data_path:
        raise MccError("no training data", "--data-path PREFIX, as `mcc data preprocess` wrote it")
    path, training = data.data_path, part == "train"
    if data.valid_data_path:
        path, part = (data.valid_data_path if part == "valid" else data.data_path), "all"
    wanted = Wanted(
        blend=Blend.parse(path),
        part=part,
        split=data.split,
        seq_length=model.seq_length,
        num_samples=count,
        seed=config.run.seed,
        cache=data.data_cache_path,
    )
    if data.samples == "fixed" and not _causal(config):
        raise UsageError(
            f"--samples fixed is for causal models; {config.model.family} masks its samples anew in every epoch",
            "leave it out",
        )
    if data.samples == "fixed" and training:
        return _fixed(config, wanted, reporter)
    if _causal(config):
        opened = open_gpt(wanted, reporter)
        if opened is None:
            return None
        tokens = sum(file.tokens for file in opened.files)
        return CausalTokens(opened.samples, model.seq_length, model.vocab_size, tokens)
    vocabulary = Vocabulary.of(Tokenizer.from_str(_required(tokenizer, "masked-LM training")))
    # Without a head for pairs there are none.
    masking = data.masking if model.head == "pretraining" else dataclasses.replace(data.masking, pairs="none")
    if model.head == "pretraining" and masking.pairs == "none":
        raise UsageError("head pretraining learns pairs, but --bert-pairs is none", "--head lm")
    pairs = open_bert(wanted, masking, vocabulary, reporter)
    return None if pairs is None else MaskedTokens(pairs.samples, model.seq_length, model.vocab_size)


def _fixed(config: TrainConfig, wanted: Wanted, reporter: Reporter) -> FixedTokens:
    model, run = config.model, config.run
    opened = open_fixed(wanted, reporter)
    assert opened is not None  # there are always documents to train on
    order = FixedOrder(len(opened.samples), run.global_batch_size, run.seed)
    rest = f"; {order.left_out} more fill no batch" if order.left_out else ""
    reporter.note(f"an epoch is {order.steps} steps of {run.global_batch_size} windows{rest}")
    steady = run.rampup_batch_size is None
    return FixedTokens(opened.samples, order, run.samples, model.seq_length, model.vocab_size, steady)


def _task_data(config: TrainConfig, tokenizer: str, objective: Objective, reporter: Reporter) -> RunData:
    task, finetune, run = find_task(config.finetune), config.finetune, config.run
    allowed = task.max_errors if finetune.task_max_errors is None else finetune.task_max_errors
    encoder = Encoder(tokenizer, config.model.seq_length, task.first_text_tokens)
    check_vocabulary(encoder, config.model.vocab_size)
    examples = Examples(training_files(task, finetune), task, allowed, reporter)
    evaluations = []
    for name, paths in scored_files(task, finetune).items():
        found = Examples(paths, task, allowed, reporter)
        source = ScoredExamples(found, encoder)
        evaluations.append(Evaluation(name, source, len(found), partial(score, task.metrics)))
    train = TrainingExamples(examples, encoder, run.samples, run.seed)
    epoch = len(examples) if finetune.epochs else None
    return RunData(objective=objective, train=train, evaluations=tuple(evaluations), epoch_samples=epoch)


def _required(tokenizer: str | None, what: str) -> str:
    if tokenizer is None:
        raise UsageError(f"{what} needs the tokenizer", "--tokenizer FILE")
    return tokenizer
