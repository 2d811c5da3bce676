"""`mcc quickstart`: the whole job, and one table of what came out."""

from __future__ import annotations

from typing import Any

import typer

from mcc.cli import console
from mcc.cli.options import flags
from mcc.core.config import resolve
from mcc.quickstart.config import QuickstartConfig

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_EPILOG = """Examples:

mcc quickstart

mcc quickstart --corpus enwiki-pages-articles.xml.bz2 --out wiki --json

mcc quickstart --corpus notes.jsonl --corpus book.txt --steps 400
"""


@app.command(epilog=_EPILOG)
@flags(QuickstartConfig)
def quickstart(*, json: console.JSON = False, settings: dict[str, Any]) -> None:
    """Raw text in, scored checkpoints out: data, 3D-parallel training dense and compressed, conversion, evaluation.

    Needs no download, no GPU and a few minutes on two cores. Exit code 0 when every check passes.
    """
    config = resolve(QuickstartConfig, flags=settings)
    from mcc.quickstart.job import quickstart as run

    result = run(config, console.reporter(), console.reporter)
    if json:
        console.print_json(result.summary)
    else:
        _show(result.summary)
        print(f"\nsummary: {config.folder / 'summary.json'}\nreport:  {result.report}")
    raise typer.Exit(0 if result.passed else 1)


def _show(summary: dict[str, Any]) -> None:
    from mcc.quickstart.job import compressed_sites, ratio

    dense, small = summary["runs"]["dense"], summary["runs"]["compressed"]
    rows = [
        ["held-out loss (nats a token)", f"{dense['heldout_loss']:.4f}", f"{small['heldout_loss']:.4f}"],
        ["final training loss", f"{dense['final_train_loss']:.4f}", f"{small['final_train_loss']:.4f}"],
        ["word perplexity", f"{dense['word_perplexity']:.1f}", f"{small['word_perplexity']:.1f}"],
        ["cloze accuracy", f"{dense['cloze_accuracy']:.1%}", f"{small['cloze_accuracy']:.1%}"],
        ["tokens/s", f"{dense['tokens_per_s']:.0f}", f"{small['tokens_per_s']:.0f}"],
    ]
    table = [[*row, f"{_number(row[2]) / _number(row[1]):.3f}" if _number(row[1]) else ""] for row in rows]
    for site, sent in dense["wire_bytes"].items():
        less = small["wire_bytes"].get(site, 0)
        saved = f"{sent / less:.1f}x less" if less and less != sent else ""
        table.append([f"MB sent, {site}", f"{sent / 1e6:.2f}", f"{less / 1e6:.2f}", saved])
    sites = compressed_sites()
    total = ratio(dense["wire_bytes"], small["wire_bytes"], sites)
    sums = [sum(run["wire_bytes"][site] for site in sites) / 1e6 for run in (dense, small)]
    table.append(["MB sent, compressed sites", f"{sums[0]:.2f}", f"{sums[1]:.2f}", f"{total:.1f}x less"])
    console.table("Quickstart", ["", "dense", "compressed", "compressed/dense"], table)
    checks = [[name.replace("_", " "), "pass" if held else "FAIL"] for name, held in summary["checks"].items()]
    console.table("Checks", ["check", ""], checks)
    facts = f"{summary['docs_kept']} of {summary['docs_in']} documents, {summary['tokens']} tokens, "
    print(f"{facts}unigram entropy {summary['unigram_entropy']:.3f} nats; {summary['seconds']:.0f} s")


def _number(text: str) -> float:
    return float(text.removesuffix("%"))
