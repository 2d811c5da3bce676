"""`mcc data`: from raw text to token files, a command a step. Each streams, and each has a function of its name."""

from __future__ import annotations

import typer

from mcc.cli import data_clean, data_decontaminate, data_dedup, data_index, data_order, data_run, data_tokens, data_wiki

app = typer.Typer(
    name="data",
    help="From raw text to token files, a step a command. Steps read and write JSON lines with a [cyan]text[/] "
    "(.jsonl, .jsonl.gz, .jsonl.bz2, .jsonl.zst) or .parquet, and read plain .txt; other keys are kept. Patterns in "
    "quotes ('part-*.jsonl') are expanded in order.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

for _group in (data_wiki, data_clean, data_dedup, data_decontaminate, data_order, data_tokens, data_index, data_run):
    app.add_typer(_group.app)
