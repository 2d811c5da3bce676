"""The training loop of one rank, from a checked configuration to the last checkpoint."""

from __future__ import annotations

import time
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from mcc.ckpt import native
from mcc.core.events import SILENT, Reporter
from mcc.core.files import PARTIAL, remove
from mcc.train import checkpoint
from mcc.train.batch import Batch
from mcc.train.config import TrainConfig
from mcc.train.data import held_out_batches, training_batches
from mcc.train.engine import Engine, make_mesh
from mcc.train.metrics import MetricsFile, total_bytes


def train(config: TrainConfig, tokenizer: str | None = None, reporter: Reporter = SILENT) -> None:
    """Train as this rank of the default process group. Only rank 0 reports and writes metrics."""
    run = config.run
    mesh = make_mesh(config)
    dp = mesh.dp
    leader = dist.get_rank() == 0
    reporter = reporter if leader else SILENT
    engine = Engine(config, mesh)
    folder = Path(run.save) if run.save else None
    start(engine, folder, reporter)
    batches = training_batches(config, mesh.dp_rank, dp)
    held_out = held_out_batches(config, mesh.dp_rank, dp)
    metrics = MetricsFile(folder, engine.iteration) if folder and leader else None
    tokens = run.global_batch_size * config.model.seq_length
    waited, logged = time.perf_counter(), engine.iteration
    with reporter.task("training", total=run.train_iters, unit="steps") as task:
        task.advance(engine.iteration)
        while engine.iteration < run.train_iters:
            result = engine.step(_named(batches[engine.iteration]))
            step, last = engine.iteration, engine.iteration == run.train_iters
            if step % run.log_interval == 0 or last:
                seconds, waited = time.perf_counter() - waited, time.perf_counter()
                steps, logged = step - logged, step
                sent = total_bytes(mesh.wire.take())
                line = {
                    "step": step,
                    "loss": result.loss,
                    "lr": result.lr,
                    "grad_norm": result.grad_norm,
                    "tokens": step * tokens,
                    "step_time_s": seconds / steps,
                    "wire_bytes": {site: round(n / steps) for site, n in sent.items()},
                }
                if metrics:
                    metrics.append(line)
                task.describe(f"loss {result.loss:.3f}")
            task.advance()
            if held_out and (last or (run.eval_interval and step % run.eval_interval == 0)):
                loss = engine.evaluate([_named(pair) for pair in held_out])
                if metrics:
                    metrics.append({"step": step, "heldout_loss": loss})
                reporter.note(f"step {step}: held-out loss {loss:.4f}")
                waited = time.perf_counter()
            if folder and (last or (run.save_interval and step % run.save_interval == 0)):
                saved = checkpoint.save(engine, tokenizer)
                reporter.note(f"saved {saved}")
                waited = time.perf_counter()


def _named(pair: tuple[Tensor, Tensor]) -> Batch:
    return {"tokens": pair[0], "targets": pair[1]}


def start(engine: Engine, folder: Path | None, reporter: Reporter) -> None:
    """Fresh weights, another checkpoint's, or those of the run's own last checkpoint. Collective."""
    run = engine.config.run
    if folder and dist.get_rank() == 0 and folder.exists():
        for torn in folder.glob(f".iter_*{PARTIAL}"):
            remove(torn)  # left by a run that was killed while it saved
    if run.load:
        checkpoint.load_weights(engine, Path(run.load))
    elif run.resume and folder:
        last = native.latest(folder)
        if last is None:
            reporter.warn(f"no checkpoint in {folder} yet: starting from step 0")
            return
        checkpoint.resume(engine, last, reporter)
        reporter.note(f"resumed from {last} at step {engine.iteration}")
