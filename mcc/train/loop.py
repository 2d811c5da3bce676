"""The training loop of one rank, from a checked configuration to the last checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from mcc.ckpt import history
from mcc.core.events import SILENT, Reporter
from mcc.core.files import PARTIAL, remove
from mcc.core.ranks import restart_count
from mcc.train import checkpoint
from mcc.train.config import TrainConfig
from mcc.train.data import open_data
from mcc.train.engine import Engine
from mcc.train.layout import make_mesh
from mcc.train.orthogonality import Measurements
from mcc.train.parallel.mesh import CPU
from mcc.train.samples import never_again
from mcc.train.saver import Saver, own_group
from mcc.train.sources.prefetch import Prefetched
from mcc.train.stop import Stop
from mcc.train.watch import Watch


def train(
    config: TrainConfig,
    tokenizer: str | None = None,
    reporter: Reporter = SILENT,
    device: torch.device = CPU,
    stop: Stop | None = None,
) -> int:
    """Train as this rank of the default process group; the step at which it ended. Only rank 0 reports and writes.

    Args:
        config: the resolved configuration.
        tokenizer: JSON, kept with every checkpoint.
        reporter: of rank 0.
        device: to compute on.
        stop: ends the run early, with a checkpoint.
    """
    run, safety, stop = config.run, config.safety, stop or Stop(enabled=False)
    mesh = make_mesh(config, device)
    reporter = reporter if dist.get_rank() == 0 else SILENT
    data = open_data(config, tokenizer, reporter)
    for what in never_again(config, data):
        reporter.warn(what)
    engine = Engine(config, mesh, data.rows, data.train.epoch_samples)
    folder = Path(run.save) if run.save else None
    start(engine, folder, reporter)
    source = Prefetched(data.train)
    control = own_group(dist.get_backend() != "gloo")
    measurements = Measurements(engine, control) if config.observe.check_orthogonality else None
    saver = Saver(safety.keep_last, safety.async_save, own_group(safety.async_save), reporter)
    with Watch(config, mesh, engine.iteration, reporter, control, device, engine.dtype) as watch, saver:
        last = False
        while engine.iteration < run.train_iters and not last:
            at, step = engine.progress, engine.iteration + 1
            with watch.step(step):
                with watch.recorder.span("data"):
                    batch = source.batch(at.samples, at.batch, mesh.dp_rank, mesh.dp)
                result = engine.step(batch)
                stopped = stop.agreed(step, control)
                last = stopped or step == run.train_iters
                watch.log(step, result.line(), engine.progress.samples * config.model.seq_length, last)
            if measurements is not None:
                with watch.aside():
                    measurements.write()
            due = run.eval_interval and step % run.eval_interval == 0
            if not stopped and (last or due or data.epoch_ended(at.samples, engine.progress.samples)):
                with watch.aside("evaluate"):
                    for evaluation in data.evaluations:
                        found = engine.score(evaluation)
                        epoch = data.epoch(engine.progress.samples)
                        watch.told(step, epoch | {f"{evaluation.name}_{key}": n for key, n in found.items()})
                        when = ", ".join(f"{what} {n:g}" for what, n in {"step": step, **epoch}.items())
                        figures = ", ".join(f"{key} {number:.4f}" for key, number in found.items())
                        reporter.note(f"{when}: {evaluation.name} {figures}")
            if folder and (last or (run.save_interval and step % run.save_interval == 0)):
                with watch.aside("save"):
                    checkpoint.save(engine, tokenizer, saver)
            saver.poll()
            if stopped:
                reporter.warn(f"stopped by a signal after step {step} of {run.train_iters}; continue with --resume")
    source.close()
    return engine.iteration


def start(engine: Engine, folder: Path | None, reporter: Reporter) -> None:
    """Fresh weights, another checkpoint's, or those of the run's own last checkpoint. Collective."""
    run, restarted = engine.config.run, restart_count() > 0
    if folder and dist.get_rank() == 0 and folder.exists():
        for torn in folder.glob(f".iter_*{PARTIAL}"):
            remove(torn)  # left by a run that was killed while it saved
    if folder and (run.resume or restarted):
        last = history.last_good(folder, reporter.warn)
        if last is not None:
            checkpoint.resume(engine, last, reporter)
            reporter.note(f"resumed from {last} at step {engine.iteration}")
            return
        reporter.warn(f"no checkpoint in {folder} yet: starting from step 0")
    if run.load:
        checkpoint.load_weights(engine, Path(run.load), reporter)
