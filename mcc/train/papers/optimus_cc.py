"""`optimus-cc`: pretraining a GPT with compressed backpropagation, one embedding sum, and selected stages' gradients.

Source: Song et al., Optimus-CC (arXiv 2301.09830). There GPT-2.5B and GPT-8.3B on 128 GPUs, TP 8 x PP 4 x DP 4; here a
small GPT of the same depth of pipeline, PP 4 x DP 2. CB: low rank of the gradients between stages in the pipeline's
epilogue. LEP: the error goes into the next gradient that is compressed. FE: the tied embedding's two sums in one. SC:
low rank of the gradients between replicas in three stages of four.
"""

from __future__ import annotations

from collections.abc import Sequence

from mcc.core.events import Reporter
from mcc.train.papers.base.config import PaperConfig, Place
from mcc.train.papers.base.paper import DENSE, Paper, Setting, Values
from mcc.train.papers.base.texts import own_tokenizer, python_texts, token_files

_SIZES = {"quick": 6, "normal": 160, "full": 2000}  # steps
_TOKENS, _VOCABULARY = 128, 2048
_SEPARATE = {"parallel.embedding_sync": "separate"}


class OptimusCC(Paper):
    """Optimus-CC: a small GPT pretrained on real text with compressed backpropagation and gradients, PP 4 x DP 2."""

    source = "Optimus-CC, arXiv 2301.09830"
    layout = "pp=4,dp=2"
    rates = ("100mbit", "20mbit")
    quality = "held-out loss"

    def settings(self) -> Sequence[Setting]:
        return [
            Setting(name=DENSE, values=_SEPARATE),
            Setting(name=f"{DENSE}, another seed", values={**_SEPARATE, "run.seed": 4321}, twin=True),
            Setting(name="cb-no-lep", compress=("cb",)),
            Setting(name="cb", compress=("cb-lep",)),
            Setting(name="cb-fe", compress=("cb-fe",)),
            Setting(name="cb-fe-sc", compress=("cb-fe-sc",)),
        ]

    def training(self, config: PaperConfig, place: Place, reporter: Reporter) -> Values:
        data = place.work / "data"
        data.mkdir(parents=True, exist_ok=True)
        if place.data is None:
            texts = python_texts(data)
        else:
            texts = (place.data_set("wikitext2") / "valid.txt", place.data_set("wikitext2") / "test.txt")
        tokenizer = own_tokenizer(texts[0], data / f"{texts[0].stem}-tokenizer.json", _VOCABULARY, reporter)
        train, held_out = (token_files(text, data / text.stem, tokenizer, reporter) for text in texts)
        return {
            "data.data_path": train,
            "data.valid_data_path": held_out,
            "data.tokenizer": str(tokenizer),
            "model.num_layers": 8,
            "model.hidden_size": 192,
            "model.num_attention_heads": 4,
            "model.seq_length": _TOKENS,
            "model.init_std": 0.05,
            "run.micro_batch_size": 2,
            "run.global_batch_size": 16,
            "run.train_iters": config.steps or _SIZES[config.size],
            "run.eval_iters": 8,
            "run.eval_interval": max(1, (config.steps or _SIZES[config.size]) // 4),
            "optim.lr": 2e-3,
            "optim.lr_warmup_fraction": 0.1,
            "observe.memory_interval": max(1, (config.steps or _SIZES[config.size]) // 4),
        }

    def figures(self, scores: Values) -> dict[str, float]:
        return {"held-out loss": scores["heldout_loss"]} if "heldout_loss" in scores else {}
