"""`aq-sgd`: fine-tuning a pretrained language model with activations sent at few bits: directly, or as changes.

Source: Wang et al., Fine-tuning Language Models over Slow Networks using Activation Quantization with Guarantees (arXiv
2206.01299). There GPT2-1.5B on WikiText-2 and arXiv abstracts over 8 machines; here SmolLM2-135M on WikiText-2 over two
stages. `direct` quantises the activations, `delta` what changed of a sample's since its last visit; fw and bw are the
bits of activations and of their gradients. As there the output has weights of its own, not the embedding's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from mcc.core.events import Reporter
from mcc.core.files import atomic_path, write_text
from mcc.train.papers.base.config import PaperConfig, Place
from mcc.train.papers.base.paper import BOTH, THROUGH, Paper, Setting, Values
from mcc.train.papers.base.texts import first_tokens, token_files

_MODEL, _TEXTS = "smollm2-135m", "wikitext2"
_BATCH, _TOKENS = 4, 128
# Steps of an epoch, epochs, and windows that are scored.
_SIZES = {"quick": (2, 2, 4), "normal": (4, 5, 16), "full": (64, 10, 128)}
_BITS = {"fw8-bw8": (8, 8, False), "fw4-bw8": (4, 8, False), "fw3-bw6": (3, 6, True), "fw2-bw4": (2, 4, False)}
# The paper's own quantiser. It has a zero, which changes need: where one token of a channel moves far, all others stay.
_GRID = "scale=channel,grid=acsgd"


class AQSGD(Paper):
    """AQ-SGD: SmolLM2-135M fine-tuned on WikiText-2, activations quantised directly or as changes, PP 2."""

    source = "AQ-SGD, arXiv 2206.01299"
    layout = "pp=2"
    rates = ("100mbit", "10mbit", "2mbit")
    quality = "held-out loss"

    def settings(self) -> Sequence[Setting]:
        found = [Setting(name="fp32")]
        for name, (forward, backward, full) in _BITS.items():
            back = f"pp.backward=quantize:bits={backward},{_GRID}"
            for how, codec in (("direct", "quantize"), ("delta", "delta")):
                compress = (f"pp.forward={codec}:bits={forward},{_GRID}", back)
                found.append(Setting(name=f"{how}-{name}", compress=compress, values=BOTH, full=full))
        return found

    def training(self, config: PaperConfig, place: Place, reporter: Reporter) -> Values:
        model, texts = place.model(_MODEL), place.data_set(_TEXTS)
        steps, epochs, scored = _SIZES[config.size]
        own = untied(model, place.work / "model")
        held_out = token_files(texts / "test.txt", place.work / "data" / "test", model, reporter)
        return {
            "run.load": str(own),
            "finetune.enabled": True,
            "data.data_path": _windows(place, steps, reporter),
            "data.valid_data_path": held_out,
            "data.samples": "fixed",
            "data.sample_length": _TOKENS,
            "run.micro_batch_size": 1,
            "run.global_batch_size": _BATCH,
            "run.train_iters": config.steps or steps * epochs,
            "run.eval_iters": scored // _BATCH,
            "run.eval_interval": steps,
            "optim.lr": 5e-5,
            "optim.lr_warmup_iters": 2,
            "optim.lr_decay_style": "linear",
        }

    def timed(self, training: Values, place: Place, reporter: Reporter) -> Values:
        # One step is an epoch: from the second one on, what is sent are changes.
        return {"data.data_path": _windows(place, 1, reporter)}

    def figures(self, scores: Values) -> dict[str, float]:
        names = {"heldout_loss": "", f"heldout_loss{THROUGH}": " through codecs"}
        losses = {title: scores[key] for key, title in names.items() if key in scores}
        return {f"held-out loss{title}": loss for title, loss in losses.items()} | {
            f"perplexity{title}": math.exp(loss) for title, loss in losses.items()
        }


def _windows(place: Place, steps: int, reporter: Reporter) -> str:
    """Token files of an epoch of so many steps."""
    model, data = place.model(_MODEL), place.work / "data"
    count = steps * _BATCH * _TOKENS + 1
    text = first_tokens(place.data_set(_TEXTS) / "valid.txt", data / f"train-{steps}.jsonl", model, count)
    return token_files(text, data / text.stem, model, reporter)


def untied(model: Path, folder: Path) -> Path:
    """A copy of a Hugging Face Llama whose output has weights of its own, equal to the embedding's at first."""
    from safetensors.torch import load_file, save_file

    if folder.exists():
        return folder
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(weights, temporary / "model.safetensors", {"format": "pt"})
        write_text(temporary / "config.json", json.dumps({**config, "tie_word_embeddings": False}, indent=1))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (temporary / name).write_bytes((model / name).read_bytes())
    return folder
