"""The same training dense and compressed, its links unshaped and then at every rate: step times, bytes, losses.

Each run is started once and its links change under way. It begins unshaped, and goes through the rates in its last
steps; so every rate is measured in the state in which long training is, after warm-ups and with warm codecs, and every
run ends after the same steps with a loss that can be compared.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from mcc.core.config import plain
from mcc.core.errors import MccError
from mcc.core.events import SILENT, Reporter
from mcc.train.compress.presets import with_presets
from mcc.train.config import TrainConfig
from mcc.train.metrics import mean_bytes
from mcc.train.network.config import DENSE, SETTLING, NetworkConfig
from mcc.train.network.links import Network
from mcc.train.network.namespaces import require
from mcc.train.network.ranks import Training
from mcc.train.prepare import prepare

UNSHAPED = "unshaped"
# The bar: where dense training runs at this share of its unshaped speed or below,
SLOW = 1 / 7
# the best compressed one runs at this share of it or above,
FAST = 0.8
# with a held-out loss within this factor of dense.
NEAR = 1.01


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One run at one rate; None where it took no step within the limit.

    Args:
        rate: of the links.
        steps: that were timed. step_s: their median, seconds.
        wire_bytes: sent a step by all ranks, by site.
        speed_up: over dense training at this rate.
        fraction: of the speed of dense training on unshaped links.
    """

    rate: str
    steps: int
    step_s: float | None
    wire_bytes: Mapping[str, int]
    speed_up: float | None = None
    fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: `timings` at every rate, unshaped first; its loss on held-out data after its last step."""

    name: str
    compress: Sequence[str]
    timings: Sequence[Timing]
    heldout_loss: float | None
    loss_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The fastest rate at which dense training is slow, and the best compressed run there."""

    rate: str
    dense_fraction: float
    best: str
    fraction: float
    loss_ratio: float | None
    met: bool


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured. `goodput_mbit`: what one TCP connection carried at each rate, nothing else on the link."""

    layout: str
    steps: int
    goodput_mbit: Mapping[str, float]
    runs: Sequence[Run]
    bar: Bar | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def measure(
    config: NetworkConfig,
    training: TrainConfig,
    folder: Path,
    reporter: Reporter = SILENT,
    given: Collection[str] | None = None,
) -> Report:
    """Train densely and compressed on links of every rate.

    Args:
        config: what to measure.
        training: the run; its layout and what it compresses are replaced.
        folder: for the runs' files.
        given: paths of settings that presets leave alone; None: those that are not the default.

    Raises:
        UsageError: a run's configuration makes no sense; none was started.
        MccError: the machine cannot lay out networks; a rank failed.
    """
    require()
    runs: list[tuple[str, tuple[str, ...]]] = [(DENSE, ()), *((text, tuple(text.split())) for text in config.compress)]
    # All are checked before one is started.
    prepared = [
        prepare(_configured(config, training, folder / str(i), c, given), config.world_size)
        for i, (_, c) in enumerate(runs)
    ]
    links = config.links()
    measured = []
    with Network(config.world_size) as network, reporter.task("runs", len(runs), "runs") as task:
        goodput = {}
        for rate in (None, *links):
            network.shape(rate, config.latency_ms)
            goodput[rate.name if rate else UNSHAPED] = round(network.goodput() / 1e6, 2)
        for i, ((name, compress), (resolved, tokenizer)) in enumerate(zip(runs, prepared, strict=True)):
            network.shape(None, config.latency_ms)
            with Training(resolved, tokenizer, network, folder / str(i)) as under_way:
                measured.append(follow_rates(name, compress, under_way, network, config, reporter))
            task.advance()
    return compared(config, resolved, goodput, measured)


def _configured(
    config: NetworkConfig, training: TrainConfig, save: Path, compress: tuple[str, ...], given: Collection[str] | None
) -> TrainConfig:
    """A run of the measurement: presets replaced by what they stand for."""
    axes: dict[str, Any] = {"tp": 1, "pp": 1, "dp": 1, "cp": 1} | config.axes()
    parallel = dataclasses.replace(training.parallel, **axes)
    steps = max(training.run.train_iters, config.least_steps)
    run = dataclasses.replace(training.run, train_iters=steps, log_interval=1, save=str(save / "run"))
    return with_presets(dataclasses.replace(training, parallel=parallel, run=run, compress=compress), given)


def follow_rates(
    name: str,
    compress: tuple[str, ...],
    training: Training,
    network: Network,
    config: NetworkConfig,
    reporter: Reporter,
) -> Run:
    """Lead a run through the rates, to its end.

    Raises:
        MccError: a rank failed, or the run does not come to an end.
    """
    iters, links = training.config.run.train_iters, config.links()
    count = config.steps + SETTLING
    # After how many steps each rate begins; (first step, last step) of each rate, as it came.
    begins = [iters - count * (len(links) - i) for i in range(len(links))]
    parts: dict[str, tuple[int, int]] = {}
    with reporter.task(name, iters, "steps") as task:
        done = 0
        for i, rate in enumerate((None, *links)):
            until = begins[i] if i < len(links) else iters
            network.shape(rate, config.latency_ms)
            # Unshaped, there may be many steps.
            limit_s = config.limit_s if rate else config.limit_s * max(1.0, until / count)
            first, done = done, _wait(training, done, until, limit_s, task)
            if done < until and rate is None:
                raise MccError(
                    f"{name}: {done} of {until} steps on unshaped links in {limit_s:.0f} s", "a higher --limit"
                )
            here = rate.name if rate else UNSHAPED
            parts[here] = (first, done)
            if done < until:
                reporter.warn(f"{name} at {here}: {done - first} of {count} steps in {limit_s:g} s")
                network.shape(None, config.latency_ms)
                done = _wait(training, done, until, limit_s, task)
        network.shape(None, config.latency_ms)
        until_s = time.monotonic() + max(60.0, config.limit_s)
        while not training.ended:
            if time.monotonic() > until_s:
                raise MccError(f"{name}: did not end after its last step", "a higher --limit")
            training.look()
    lines = training.lines()
    losses = [line["heldout_loss"] for line in lines if "heldout_loss" in line]
    steps = [line for line in lines if "loss" in line]
    timings = [timing(rate, steps[first + SETTLING : last]) for rate, (first, last) in parts.items()]
    return Run(name=name, compress=compress, timings=timings, heldout_loss=losses[-1] if losses else None)


def _wait(training: Training, done: int, until: int, limit_s: float, task: Any) -> int:
    """Wait until the run has done `until` steps, or for `limit_s`; the steps that it has done."""
    end = time.monotonic() + limit_s
    while done < until and time.monotonic() < end:
        ended = training.ended
        now = training.steps()
        task.advance(now - done)
        done = now
        if ended:
            break
        if done < until:
            training.look()
    return done


def timing(rate: str, lines: Sequence[Mapping[str, Any]]) -> Timing:
    """The figures of the timed steps' lines of `metrics.jsonl`."""
    return Timing(
        rate=rate,
        steps=len(lines),
        step_s=median(line["step_time_s"] for line in lines) if lines else None,
        wire_bytes=mean_bytes(lines),
    )


def compared(config: NetworkConfig, training: TrainConfig, goodput: Mapping[str, float], runs: Sequence[Run]) -> Report:
    """The runs against the first, which is dense, and against the bar."""
    dense = runs[0]
    base = dense.timings[0].step_s
    found = []
    for run in runs:
        timings = [
            dataclasses.replace(
                timing, speed_up=_ratio(beside.step_s, timing.step_s), fraction=_ratio(base, timing.step_s)
            )
            for timing, beside in zip(run.timings, dense.timings, strict=True)
        ]
        found.append(dataclasses.replace(run, timings=timings, loss_ratio=_ratio(run.heldout_loss, dense.heldout_loss)))
    return Report(
        layout=config.layout,
        steps=training.run.train_iters,
        goodput_mbit=goodput,
        runs=found,
        bar=_bar(found),
        config=plain(training),
    )


def _bar(runs: Sequence[Run]) -> Bar | None:
    """At the fastest rate that is slow for dense training; None where there is none, or nothing was compressed.

    A run that took no step at a rate has none of its speed there.
    """
    unshaped = runs[0].timings[0]
    for i, slow in enumerate(runs[0].timings if unshaped.step_s else ()):
        dense_fraction = slow.fraction or 0.0
        if dense_fraction > SLOW:
            continue
        there = [(run, run.timings[i].fraction or 0.0) for run in runs[1:]]
        # A loss too far from dense does not count as long as one is near.
        there.sort(key=lambda item: (_near(item[0]), item[1]))
        if not there:
            return None
        best, fraction = there[-1]
        return Bar(
            rate=slow.rate,
            dense_fraction=dense_fraction,
            best=best.name,
            fraction=fraction,
            loss_ratio=best.loss_ratio,
            met=fraction >= FAST and _near(best),
        )
    return None


def _near(run: Run) -> bool:
    return run.loss_ratio is not None and run.loss_ratio <= NEAR


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None
