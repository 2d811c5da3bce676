"""The training loop of one rank, from a checked configuration to the last checkpoint."""

from __future__ import annotations

import time
from pathlib import Path

import torch.distributed as dist

from mcc.ckpt import native
from mcc.core.events import SILENT, Reporter
from mcc.core.files import PARTIAL, remove
from mcc.train import checkpoint
from mcc.train.config import TrainConfig
from mcc.train.data import RunData, open_data
from mcc.train.engine import Engine, make_mesh
from mcc.train.metrics import MetricsFile, total_bytes
from mcc.train.sources.prefetch import Prefetched


def train(config: TrainConfig, tokenizer: str | None = None, reporter: Reporter = SILENT) -> None:
    """Train as this rank of the default process group. Only rank 0 reports and writes metrics."""
    run = config.run
    mesh = make_mesh(config)
    leader = dist.get_rank() == 0
    reporter = reporter if leader else SILENT
    data = open_data(config, tokenizer, reporter)
    engine = Engine(config, mesh, data.rows)
    folder = Path(run.save) if run.save else None
    start(engine, folder, reporter)
    source = Prefetched(data.train)
    metrics = MetricsFile(folder, engine.iteration) if folder and leader else None
    waited, logged = time.perf_counter(), engine.iteration
    with reporter.task("training", total=run.train_iters, unit="steps") as task:
        task.advance(engine.iteration)
        while engine.iteration < run.train_iters:
            at = engine.progress
            result = engine.step(source.batch(at.samples, at.batch, mesh.dp_rank, mesh.dp))
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
                    "tokens": engine.progress.samples * config.model.seq_length,
                    "step_time_s": seconds / steps,
                    "wire_bytes": {site: round(n / steps) for site, n in sent.items()},
                }
                if result.loss_scale is not None:
                    line["loss_scale"] = result.loss_scale
                if len(result.parts) > 1:
                    line |= result.parts
                if metrics:
                    metrics.append(line)
                task.describe(f"loss {result.loss:.3f}")
            task.advance()
            due = run.eval_interval and step % run.eval_interval == 0
            if last or due or data.epoch_ended(at.samples, engine.progress.samples):
                for evaluation in data.evaluations:
                    found = engine.evaluate(evaluation)
                    if metrics:
                        metrics.append({"step": step, **{f"{evaluation.name}_{key}": n for key, n in found.items()}})
                    figures = ", ".join(f"{key} {number:.4f}" for key, number in found.items())
                    reporter.note(f"{_when(data, engine)}: {evaluation.name} {figures}")
                waited = time.perf_counter()
            if folder and (last or (run.save_interval and step % run.save_interval == 0)):
                saved = checkpoint.save(engine, tokenizer)
                reporter.note(f"saved {saved}")
                waited = time.perf_counter()
    source.close()


def _when(data: RunData, engine: Engine) -> str:
    if data.epoch_samples is None:
        return f"step {engine.iteration}"
    return f"step {engine.iteration}, epoch {engine.progress.samples / data.epoch_samples:.3g}"


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
