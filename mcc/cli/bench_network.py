"""`mcc bench network`: training on shaped links."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mcc.cli.console import JSON, print_json, reporter, table
from mcc.cli.options import flags
from mcc.core.config import read_toml, resolve
from mcc.train.config import TrainConfig

EPILOG = r"""Examples:

mcc bench network --layout pp=2 --rates 1gbit,100mbit \
  --compress "pp.forward=quantize:bits=4 pp.backward=quantize:bits=4"

mcc bench network small.toml --layout dp=2 --rates 100mbit,10mbit --compress wan --compress datacenter --plot dp.png

Needs Linux, root and the programs ip and tc. Every rank gets a network namespace; nothing else is touched.
"""

# What is trained where neither the file nor a flag says otherwise.
DEFAULTS: dict[str, Any] = {
    "model.num_layers": 4,
    "model.hidden_size": 256,
    "model.seq_length": 128,
    "run.micro_batch_size": 2,
    "run.global_batch_size": 16,
    "run.eval_iters": 4,
    "optim.lr": 1e-3,
    "optim.lr_warmup_iters": 10,
}
_SKIP = ("parallel.tp", "parallel.pp", "parallel.dp", "parallel.cp", "run.save", "run.save_interval", "run.resume")
_SKIPPED = ("finetune", "observe", "safety", "compress", "run.log_interval", "run.train_samples", *_SKIP)


@flags(TrainConfig, skip=_SKIPPED)
def network(
    *,
    config: Annotated[Path | None, typer.Argument(help="TOML file of training settings; flags come on top.")] = None,
    rates: Annotated[str, typer.Option(metavar="RATE,RATE,...", help="Speeds of the links.")] = "1gbit,100mbit",
    layout: Annotated[str, typer.Option(metavar="AXIS=RANKS,...", help="Ranks: tp, pp, dp, cp.")] = "pp=2",
    compress: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'PRESET or SITE=CODEC ...'",
            help="One compressed run: what `mcc train --compress` takes, several with spaces between (repeatable).",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps timed at each rate.")] = 10,
    latency: Annotated[float, typer.Option(help="Milliseconds of queue a link has; it adds no delay of its own.")] = 50,
    limit: Annotated[float, typer.Option(help="Seconds after which a run leaves a rate.")] = 120,
    plot: Annotated[Path | None, typer.Option(help="Draw speed against rate into this file (png, svg, pdf).")] = None,
    json: JSON = False,
    settings: dict[str, Any],
) -> None:
    """Train dense and compressed on links of several speeds: step times, bytes and losses.

    Each rank gets a network of its own, and a link whose both directions are held to the rate (tc's token bucket).
    A run begins on unshaped links and is timed at every rate in its last steps; --train-iters makes it longer.
    """
    from mcc.train.network.config import NetworkConfig

    wanted = NetworkConfig(
        rates=tuple(filter(None, rates.split(","))),
        layout=layout,
        compress=tuple(compress or ()),
        steps=steps,
        latency_ms=latency,
        limit_s=limit,
    )
    there = _paths(read_toml(config)) if config is not None else set()
    defaults = {**DEFAULTS, "run.train_iters": wanted.least_steps}
    given = {path: value for path, value in defaults.items() if path not in there} | settings
    training = resolve(TrainConfig, config, given)

    from mcc.train.network.bench import measure
    from mcc.train.network.namespaces import require
    from mcc.train.network.scratch import scratch_folder

    require()
    if plot is not None:
        from mcc.train.network.plot import check

        check(plot)
    with scratch_folder() as folder:
        if training.data.data_path is None:
            from mcc.train.network.corpus import embedded

            training = embedded(training, folder / "corpus", reporter())
        report = measure(wanted, training, folder, reporter(), {*there, *settings})
    if plot is not None:
        from mcc.train.network.plot import draw

        draw(report, plot)
    if json:
        print_json(report)
    else:
        _print(report)


def _paths(values: dict[str, Any], prefix: str = "") -> set[str]:
    """Every setting that a file has."""
    found: set[str] = set()
    for key, value in values.items():
        found |= _paths(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


def _print(report: Any) -> None:
    links = [(rate, mbit) for rate, mbit in report.goodput_mbit.items()]
    table("Links", ["rate", "Mbit/s measured"], links)
    rows = []
    for i, timing in enumerate(report.runs[0].timings):
        for run in report.runs:
            t = run.timings[i]
            rows.append(
                [
                    *(timing.rate, run.name, None if t.step_s is None else 1000 * t.step_s, t.steps),
                    *(sum(t.wire_bytes.values()), t.speed_up, t.fraction),
                ]
            )
    columns = ["rate", "run", "step, ms", "steps timed", "bytes a step", "x dense here", "of unshaped dense"]
    table(f"Training at {report.layout}", columns, rows)
    rows = [[run.name, site, sent] for run in report.runs for site, sent in _steady(run).items()]
    table("Bytes sent a step by all ranks", ["run", "site", "bytes"], rows)
    if report.runs[0].heldout_loss is not None:
        rows = [[run.name, run.heldout_loss, run.loss_ratio] for run in report.runs]
        table(f"Held-out loss after {report.steps} steps", ["run", "loss", "x dense"], rows)
    if report.bar is not None:
        bar = report.bar
        print(
            f"At {bar.rate} dense training has {bar.dense_fraction:.3f} of its unshaped speed, "
            f"{bar.best} {bar.fraction:.3f}."
        )


def _steady(run: Any) -> dict[str, int]:
    """The bytes of a run's last timed steps: codecs are warm then."""
    found: dict[str, int] = next((t.wire_bytes for t in reversed(run.timings) if t.steps), {})
    return found
