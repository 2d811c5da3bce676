"""A paper's settings on links of several rates: how long a step takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcc.core.config import resolve
from mcc.core.errors import MccError
from mcc.core.events import Reporter
from mcc.core.files import remove, write_text
from mcc.train.compress.presets import expand, with_presets
from mcc.train.config import TrainConfig
from mcc.train.network.bench import UNSHAPED, follow_rates
from mcc.train.network.config import NetworkConfig
from mcc.train.network.links import Network
from mcc.train.network.namespaces import require
from mcc.train.network.ranks import Training
from mcc.train.papers.base.config import PaperConfig
from mcc.train.papers.base.paper import Paper, Setting, Values
from mcc.train.prepare import prepare

_KEPT = "links.json"
_GOODPUT = "goodput.json"
Times = Mapping[str, float | None]  # seconds a step by rate


def why_not() -> str | None:
    """Why this machine lays out no links; None where it can."""
    try:
        require()
    except MccError as error:
        return error.what
    return None


def timed(
    paper: Paper, settings: Sequence[Setting], training: Values, config: PaperConfig, work: Path, reporter: Reporter
) -> tuple[dict[str, Times], dict[str, float]]:
    """Seconds a step of each setting at each rate, and Mbit/s that one connection carried at each rate.

    What was measured before is not measured again. A setting that fails is told of, and left out.

    Args:
        training: what the settings share on links.
        work: folder with a folder for each setting.
    """
    rates = tuple((config.rates or ",".join(paper.rates)).split(","))
    network = NetworkConfig(rates=rates, layout=paper.layout, steps=config.timed_steps, limit_s=config.link_limit)
    found: dict[str, Times] = {}
    wanted: dict[str, dict[str, Any]] = {}
    for setting in settings:
        values = {"run.eval_iters": 0, **training, **setting.values}
        wanted[setting.name] = {
            "values": values,
            "compress": list(expand(setting.compress)[0]),
            "rates": list(rates),
            "steps": config.timed_steps,
        }
        there = _read(work / setting.name / _KEPT)
        if there and there["wanted"] == json.loads(json.dumps(wanted[setting.name])):
            found[setting.name] = there["step_s"]
    missing = [setting for setting in settings if setting.name not in found]
    goodput: dict[str, float] = _read(work / _GOODPUT) or {}
    if missing:
        with Network(network.world_size) as links, reporter.task("on links", len(missing), "settings") as task:
            goodput |= _goodput(links, network)
            write_text(work / _GOODPUT, json.dumps(goodput))
            for setting in missing:
                try:
                    times = _times(setting, wanted[setting.name]["values"], links, network, work, reporter)
                except MccError as error:
                    reporter.warn(f"{setting.name} on links: {error}")
                else:
                    found[setting.name] = times
                    kept = {"wanted": wanted[setting.name], "step_s": times}
                    write_text(work / setting.name / _KEPT, json.dumps(kept))
                task.advance()
    shown = [UNSHAPED, *(rate.name for rate in network.links())]
    return found, {rate: goodput[rate] for rate in shown if rate in goodput}


def _times(
    setting: Setting, values: Values, links: Network, network: NetworkConfig, work: Path, reporter: Reporter
) -> Times:
    folder = work / setting.name / "links"
    remove(folder)
    given = {
        **values,
        "run.train_iters": network.least_steps,
        "run.log_interval": 1,
        "run.save": str(folder / "run"),
        "compress": setting.compress,
    }
    try:
        resolved, tokenizer = prepare(with_presets(resolve(TrainConfig, None, given), set(given)), network.world_size)
        links.shape(None, network.latency_ms)
        with Training(resolved, tokenizer, links, folder) as under_way:
            ran = follow_rates(setting.name, tuple(setting.compress), under_way, links, network, reporter)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {timing.rate: timing.step_s for timing in ran.timings}


def _goodput(links: Network, network: NetworkConfig) -> dict[str, float]:
    found = {}
    for rate in (None, *network.links()):
        links.shape(rate, network.latency_ms)
        found[rate.name if rate else UNSHAPED] = round(links.goodput() / 1e6, 1)
    return found


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
