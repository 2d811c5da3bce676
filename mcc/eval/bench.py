"""`mcc bench eval`: multiple choice against lm-evaluation-harness's own adapter, generation against transformers', on
the same model and texts.

Each contestant is a process of its own, so that each has its own memory: python -m mcc.eval.bench ORDER.json
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.eval.catalogue import entries
from mcc.eval.quiet import quiet

# lm_eval's own default is 1, which is slower.
DEFAULT_HF_BATCH = 16
QUESTIONS = "hellaswag"
_VOCABULARY = 4096


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One contestant: seconds of scoring without loading, peak memory of its process, the harness's metrics."""

    seconds: float
    memory_bytes: int
    requests: int
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class ChoiceBench:
    """Both contestants.

    Args:
        model: what was scored.
        task, documents: on what.
        ours, theirs: `mcc eval zero-shot`, `lm_eval --model hf`.
        speedup: theirs.seconds / ours.seconds.
        memory: ours.memory_bytes / theirs.memory_bytes.
        difference: the largest difference of a log-likelihood.
    """

    model: str
    task: str
    documents: int
    ours: Timing
    theirs: Timing
    speedup: float
    memory: float
    difference: float


def bench_choices(
    checkpoint: Path | None = None,
    task: str = QUESTIONS,
    file: Path | None = None,
    documents: int = 100,
    hf_batch: int = DEFAULT_HF_BATCH,
    reporter: Reporter = SILENT,
) -> ChoiceBench:
    """Score `checkpoint` by us and by the harness's adapter for transformers, float32, one after the other.

    Args:
        checkpoint: any format [a random GPT-2 of 6 layers of width 384].
        task: of local files.
        file: its documents [questions made from the help texts that Python carries].
        documents: how many are scored.
        hf_batch: sequences of a batch of the harness's adapter.
        reporter: receives progress.

    Raises:
        MccError: a contestant failed.
    """
    with tempfile.TemporaryDirectory(prefix="mcc-bench-") as scratch:
        folder = Path(scratch)
        if file is None:
            file = folder / "questions.jsonl"
            write_questions(file, documents)
        if checkpoint is None:
            theirs = checkpoint = folder / "hf"
            write_model(checkpoint)
        else:
            theirs = _converted(checkpoint, folder)
        order = {"task": task, "file": str(file), "documents": documents, "hf_batch": hf_batch}
        with reporter.task("lm_eval --model hf"):
            other = _contestant(folder, {**order, "checkpoint": str(theirs), "how": "hf"})
        with reporter.task("mcc eval zero-shot"):
            own = _contestant(folder, {**order, "checkpoint": str(checkpoint), "how": "mcc"})
    pairs = zip(own.pop("values"), other.pop("values"), strict=True)
    ours, hf = Timing(**own), Timing(**other)
    return ChoiceBench(
        model=str(checkpoint) if checkpoint.parent != folder else "a random GPT-2, 6 layers of width 384",
        task=task,
        documents=documents,
        ours=ours,
        theirs=hf,
        speedup=hf.seconds / ours.seconds,
        memory=ours.memory_bytes / hf.memory_bytes,
        difference=max(abs(a - b) for a, b in pairs),
    )


@dataclass(frozen=True, kw_only=True)
class GenerationBench:
    """Greedy continuations, `new_tokens` of each of `prompts` prompts in one batch: tokens a second and peak memory.

    `speedup` is ours by theirs (`transformers.generate`); `same` of the prompts were continued by the same tokens.
    """

    prompts: int
    new_tokens: int
    ours_tokens_s: float
    theirs_tokens_s: float
    ours_memory_bytes: int
    theirs_memory_bytes: int
    speedup: float
    same: int


def bench_generation(
    checkpoint: Path | None = None, prompts: int = 8, new_tokens: int = 64, reporter: Reporter = SILENT
) -> GenerationBench:
    """Continue prompts of English by us and by `transformers.generate`, float32, with a key-value cache.

    Args:
        checkpoint: any format [a random GPT-2 of 6 layers of width 384].
        prompts: in one batch, 30 words each.
        new_tokens: of each; the end of a text does not end it.
        reporter: receives progress.

    Raises:
        MccError: a contestant failed.
    """
    with tempfile.TemporaryDirectory(prefix="mcc-bench-") as scratch:
        folder = Path(scratch)
        if checkpoint is None:
            theirs = checkpoint = folder / "hf"
            write_model(checkpoint)
        else:
            theirs = _converted(checkpoint, folder)
        words = _english().split()
        texts = [" ".join(words[at * 40 : at * 40 + 30]) for at in range(prompts)]
        order = {"texts": texts, "new_tokens": new_tokens}
        with reporter.task("transformers.generate"):
            other = _contestant(folder, {**order, "checkpoint": str(theirs), "how": "transformers.generate"})
        with reporter.task("mcc eval generate"):
            own = _contestant(folder, {**order, "checkpoint": str(checkpoint), "how": "mcc eval generate"})
    total = prompts * new_tokens
    return GenerationBench(
        prompts=prompts,
        new_tokens=new_tokens,
        ours_tokens_s=total / own["seconds"],
        theirs_tokens_s=total / other["seconds"],
        ours_memory_bytes=own["memory_bytes"],
        theirs_memory_bytes=other["memory_bytes"],
        speedup=other["seconds"] / own["seconds"],
        same=sum(a == b for a, b in zip(own["tokens"], other["tokens"], strict=True)),
    )


def _generate(order: dict[str, Any]) -> None:
    """One contestant of `bench_generation`, in its own process."""
    write = _own_texts(order) if order["how"] == "mcc eval generate" else _hf_texts(order)
    write(4)  # the first pass makes room and starts threads
    start = time.perf_counter()
    tokens = write(order["new_tokens"])
    seconds = time.perf_counter() - start
    found = {"seconds": seconds, "memory_bytes": _peak_memory(), "tokens": tokens}
    Path(order["out"]).write_text(json.dumps(found), encoding="utf-8")


def _own_texts(order: dict[str, Any]) -> Callable[[int], list[list[int]]]:
    from mcc.eval.generation.decoding import Decoding
    from mcc.eval.generation.generate import complete
    from mcc.eval.generation.records import Prompt
    from mcc.eval.loading import load

    loaded = load(order["checkpoint"])
    prompts = [Prompt(text) for text in order["texts"]]

    def write(count: int) -> list[list[int]]:
        decoding = Decoding(max_new_tokens=count, ignore_eos=True)
        return [list(found.tokens) for found in complete(loaded, prompts, decoding, batch_tokens=1 << 20)]

    return write


def _hf_texts(order: dict[str, Any]) -> Callable[[int], list[list[int]]]:
    import torch
    from transformers import AutoModelForCausalLM

    from mcc.eval.loading import find_device
    from mcc.eval.tokenizer import TextTokenizer

    device = find_device()
    model = AutoModelForCausalLM.from_pretrained(order["checkpoint"], dtype=torch.float32).to(device).eval()
    tokenizer = TextTokenizer(order["checkpoint"])
    ids = [tokenizer.encode(text) for text in order["texts"]]
    longest = max(map(len, ids))
    tokens = torch.tensor([[0] * (longest - len(each)) + each for each in ids], device=device)  # padded on the left
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in ids], device=device)

    def write(count: int) -> list[list[int]]:
        with torch.inference_mode():
            out = model.generate(
                tokens, attention_mask=mask, do_sample=False, max_new_tokens=count, min_new_tokens=count,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        found: list[list[int]] = out[:, longest:].tolist()
        return found

    return write


def _peak_memory() -> int:
    """Bytes that this process had at most: of the GPU's memory where there is one, else of the host's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _contestant(folder: Path, order: dict[str, Any]) -> dict[str, Any]:
    file, out = folder / "order.json", folder / "timing.json"
    file.write_text(json.dumps({**order, "out": str(out)}), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", __spec__.name, str(file)], capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise MccError(f"mcc bench eval: {order['how']} failed: {last[0]}")
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def _run(order: dict[str, Any]) -> None:
    """One contestant, in its own process."""
    from lm_eval.evaluator import evaluate

    (entry,) = entries([order["task"]], {order["task"]: Path(order["file"])}, 0)
    checkpoint = Path(order["checkpoint"])
    with quiet():
        lm: Any = _hf(checkpoint, order["hf_batch"]) if order["how"] == "hf" else _own(checkpoint)
        warm = {"task_dict": entry.loaded, "bootstrap_iters": 0}
        evaluate(lm=lm, limit=2, **warm)  # the first pass makes room and starts threads
        start = time.perf_counter()
        found = evaluate(lm=lm, limit=order["documents"], log_samples=True, **warm)
        seconds = time.perf_counter() - start
    samples = found["samples"][entry.name]
    values = [float(answer[0][0]) for sample in samples for answer in sample["resps"]]
    table = found["results"][entry.name]
    named = [name for name in table if name.endswith(",none") and "stderr" not in name]
    metrics = {name.partition(",")[0]: float(table[name]) for name in named}
    timing = Timing(seconds=seconds, memory_bytes=_peak_memory(), requests=len(values), metrics=metrics)
    Path(order["out"]).write_text(json.dumps({**asdict(timing), "values": values}), encoding="utf-8")


def _own(checkpoint: Path) -> Any:
    from mcc.eval.harness import MccLM
    from mcc.eval.loading import load

    loaded = load(checkpoint)
    return MccLM(loaded.model, loaded.tokenizer)


def _hf(checkpoint: Path, batch: int) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from mcc.eval.loading import find_device
    from mcc.eval.tokenizer import TextTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).to(find_device()).eval()
    ours = TextTokenizer(checkpoint)
    roles = {role: None if number is None else ours.decode([number]) for role, number in
             (("bos_token", ours.bos_id), ("eos_token", ours.eos_id), ("pad_token", ours.eos_id))}  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(checkpoint / "tokenizer.json"), **roles)
    return HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=model.config.max_position_embeddings
    )


def _converted(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint as a Hugging Face folder."""
    from mcc.ckpt.convert import convert
    from mcc.ckpt.format import detect

    if detect(checkpoint).name == "hf":
        return checkpoint
    convert(checkpoint, folder / "hf", "hf")
    return folder / "hf"


def write_questions(file: Path, count: int, seed: int = 0) -> None:
    """Questions in HellaSwag's fields: which of four endings of 8 to 24 words follows 30 to 70 words of English."""
    words = _english().split()
    draw = random.Random(seed)

    def piece(length: int, at: int | None = None) -> str:
        start = draw.randrange(len(words) - 200) if at is None else at
        return " ".join(words[start : start + length])

    with file.open("w", encoding="utf-8") as out:
        for _ in range(count):
            at, length, label = draw.randrange(len(words) - 200), draw.randint(30, 70), draw.randrange(4)
            endings = [piece(draw.randint(8, 24)) for _ in range(4)]
            endings[label] = piece(draw.randint(8, 24), at + length)
            record = {"activity_label": "Python", "ctx_a": piece(length, at), "ctx_b": "", "endings": endings}
            out.write(json.dumps({**record, "label": label}) + "\n")


def write_model(folder: Path) -> None:
    """A random GPT-2 in transformers' format with a tokenizer that knows the questions' English."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    end = "<|endoftext|>"
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([_english()], trainer)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_layer=6, n_embd=384, n_head=6, n_positions=512,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    logging.disable_progress_bar()
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def _english() -> str:
    """English that every Python carries."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


if __name__ == "__main__":
    _given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    _generate(_given) if "texts" in _given else _run(_given)
