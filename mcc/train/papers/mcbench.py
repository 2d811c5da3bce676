"""`mcbench`: fine-tuning a real BERT on MRPC with compressed activations, tensor- and pipeline-parallel.

Source: Bian et al., Does Compressing Activations Help Model Parallel Training? (arXiv 2301.02654). There BERT-large and
BERT-base on GLUE; here a pretrained 6-layer BERT of width 384 on MRPC. As there, tensor parallelism's sums are
compressed in the second half of the layers, and every boundary between stages is.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcc.core.events import Reporter
from mcc.train.papers.base.config import PaperConfig, Place
from mcc.train.papers.base.paper import BOTH, DENSE, THROUGH, Paper, Setting, Values
from mcc.train.papers.base.texts import beginning

_MODEL, _TASK = "minilm-bert", "mrpc"
_FILES = ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt")
# Steps, and pairs that are scored (0: all).
_SIZES = {"quick": (4, 64), "normal": (128, 512), "full": (510, 0)}
_BATCH = 16
_PRESETS = ("t1", "t2", "t3", "t4", "r1", "r2", "r3", "r4", "q1", "q2", "q3")


class MCBench(Paper):
    """MCBench: a pretrained BERT fine-tuned on MRPC with compressed activations, TP 2 x PP 2."""

    source = "MCBench, arXiv 2301.02654"
    layout = "tp=2,pp=2"
    rates = ("1gbit", "100mbit")
    quality = "held-out loss"

    def settings(self) -> Sequence[Setting]:
        compressed = [Setting(name=name, compress=(f"mcbench-{name}",), values=BOTH) for name in _PRESETS]
        again = Setting(name=f"{DENSE}, another seed", values={"run.seed": 4321}, twin=True)
        width = {"a1": 25, "a2": 50}  # of 384, as the paper's 50 and 100 of 768
        trained = [
            Setting(
                name=name,
                compress=(f"tp.forward=autoencoder:dim={dim},layers=50%-", f"pp.forward=autoencoder:dim={dim}"),
                values=BOTH,
            )
            for name, dim in width.items()
        ]
        return [Setting(name=DENSE), again, *trained, *compressed]

    def training(self, config: PaperConfig, place: Place, reporter: Reporter) -> Values:
        model, texts = place.model(_MODEL), place.data_set(_TASK)
        steps, scored = _SIZES[config.size]
        data = place.work / "data"
        for name, pairs in zip(_FILES, (0, scored), strict=True):
            beginning(texts / name, data / name, pairs and pairs + 1)  # the first line names the columns
        return {
            "run.load": str(model),
            "finetune.task": _TASK,
            "finetune.task_data": str(data),
            "finetune.epochs": 0.0,
            "data.sample_length": 64,
            "run.micro_batch_size": 8,
            "run.global_batch_size": _BATCH,
            "run.train_iters": config.steps or steps,
            "optim.lr": 2e-4,
            "optim.lr_warmup_fraction": 0.1,
            "optim.lr_decay_style": "linear",
        }

    def figures(self, scores: Values) -> dict[str, float]:
        names = {"valid_accuracy": "accuracy", "valid_f1": "F1", "valid_loss": "held-out loss"}
        names |= {f"{key}{THROUGH}": f"{title} through codecs" for key, title in names.items()}
        return {title: scores[key] for key, title in names.items() if key in scores}
