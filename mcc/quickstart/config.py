"""The quickstart's settings. Sized for two cores and no GPU; every value is printed with the results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcc.core.config import option
from mcc.core.errors import UsageError
from mcc.models.base.config import ModelConfig
from mcc.train.config import DataConfig, OptimConfig, ParallelConfig, RunConfig, TrainConfig

# What the compressed run compresses: each site sends at least four times less than fp32, scales included, and the
# held-out loss stays within 3% of the dense run's (measured: benchmarks/RESULTS.md).
COMPRESS = (
    "pp.forward=quantize:bits=6",
    "pp.backward=powersgd:rank=96,bits=6,feedback=on",
    "tp.forward=quantize:bits=6",
    "dp.grad=powersgd:rank=24,bits=16,feedback=on,warmup=0.05",
)
TP, PP, DP = 2, 2, 2


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """What the quickstart does.

    Raises:
        UsageError: a size is not positive.
    """

    corpus: tuple[str, ...] = option((), "documents: JSONL, plain text or MediaWiki dumps [Python's own documentation]")
    out: str = option("quickstart", "folder for everything that is made")
    steps: int = option(160, "optimizer steps of each of the two runs")
    seed: int = option(1234, "seed of everything random")
    vocab_size: int = option(1024, "tokens of the tokenizer that is trained")
    hidden_size: int = option(128, "width of the model")
    num_layers: int = option(4, "layers of the model")

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"steps = {self.steps} must be at least 1")

    @property
    def folder(self) -> Path:
        """`out` as a path."""
        return Path(self.out)


def training(config: QuickstartConfig, run: str, train: str, held_out: str, compress: tuple[str, ...]) -> TrainConfig:
    """One of the two training runs: the same but for its name and what it compresses."""
    return TrainConfig(
        model=ModelConfig(
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            num_attention_heads=4,
            seq_length=128,
            # Wider than GPT-2's 0.02, as the model is narrower: activations start at the same scale.
            init_std=0.06,
        ),
        data=DataConfig(
            data_path=train, valid_data_path=held_out, tokenizer=str(config.folder / "data" / "tokenizer.json")
        ),
        parallel=ParallelConfig(tp=TP, pp=PP, dp=DP),
        optim=OptimConfig(lr=3e-3, lr_warmup_iters=max(1, config.steps // 10), clip_grad=0.5),
        run=RunConfig(
            micro_batch_size=4,
            global_batch_size=16,
            train_iters=config.steps,
            seed=config.seed,
            eval_interval=max(1, config.steps // 8),
            eval_iters=4,
            save=str(config.folder / run),
        ),
        compress=compress,
    )
