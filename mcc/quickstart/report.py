"""`report.html`: what a run of the quickstart showed, as one file that needs no network.

The figures are drawn by matplotlib and stand in the page as data; there is no script, no font and no link.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcc.core.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Summary = Mapping[str, Any]
Curves = Mapping[str, Mapping[str, Sequence[float]]]

RUNS = ("dense", "compressed")
# Okabe and Ito's blue and orange: told apart with any colour vision, and in print.
_COLOURS = {"dense": "#0072b2", "compressed": "#d55e00"}
_INK, _FAINT, _GRID = "#1f2933", "#7b8794", "#e4e7eb"

# Rows of the table: key of a run, its title, how it is shown, which direction is better.
_ROWS = (
    ("final_train_loss", "Training loss at the end", "nats a token", ".4f", "lower"),
    ("heldout_loss", "Held-out loss", "nats a token", ".4f", "lower"),
    ("word_perplexity", "Held-out perplexity", "of a word", ",.1f", "lower"),
    ("cloze_accuracy", "Cloze accuracy", "zero-shot", ".2%", "higher"),
    ("tokens_per_s", "Training speed", "tokens/s", ",.0f", "higher"),
)

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; color: #1f2933;
  background: #f5f7fa; margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 0 0 .75rem; }
section { background: #fff; border: 1px solid #e4e7eb; border-radius: 10px; padding: 1.25rem 1.5rem;
  margin-top: 1.25rem; }
.lead { color: #52606d; margin: 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem; }
.facts b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; } .facts span { color: #52606d; }
.verdict { display: inline-block; padding: .15rem .7rem; border-radius: 999px; font-weight: 600; }
.pass { background: #d9f2e3; color: #0b5130; } .fail { background: #fde2e1; color: #8a1c14; }
ul.checks { list-style: none; padding: 0; margin: 0; display: grid; gap: .4rem; }
ul.checks .verdict { min-width: 2.6rem; text-align: center; margin-right: .6rem; font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .45rem .6rem; border-bottom: 1px solid #e4e7eb; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { color: #52606d; font-weight: 600; }
tr.total td { font-weight: 600; border-bottom: 0; } small { color: #7b8794; }
.dense { color: #0072b2; } .compressed { color: #d55e00; }
img { display: block; width: 100%; height: auto; } p.note { color: #52606d; margin: .75rem 0 0; font-size: .9rem; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


def write_report(path: str | Path, summary: Summary, curves: Curves) -> None:
    """Write the page to `path`, whole or not at all.

    Args:
        path: the HTML file.
        summary: what `summary.json` holds: docs_in, docs_kept, tokens, unigram_entropy, hf_logits_max_abs_diff, checks
            (name -> bool), runs (`dense` and `compressed`, each with the keys of the table and wire_bytes by site),
            seconds, steps. A value that is missing or None is shown as a dash.
        curves: run -> step, loss, heldout_step, heldout_loss; nats a token.
    """
    sections = [
        _section("", _facts(summary)),
        _section("Checks", _checks(summary)),
        _section("Results", _results(summary)),
        _section(
            "Loss",
            _image(loss_figure(curves, summary.get("unigram_entropy")), "Loss of both runs by step"),
            "Thin lines: training loss of each step. Bold lines with marks: loss on held-out documents. Dotted: the "
            "entropy of single tokens, which a model that ignores context cannot beat.",
        ),
        _section(
            "Bytes on the wire",
            _bytes_table(summary) + _image(bytes_figure(summary), "Bytes sent at each site, dense and compressed"),
            "All ranks together, counted where they are sent, scales and indices included. The axis is logarithmic.",
        ),
    ]
    checks = list(summary.get("checks", {}).values())
    words = ("all checks passed" if all(checks) else "some checks failed") if checks else "nothing was checked"
    verdict = _verdict(bool(checks) and all(checks), words)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>mcc quickstart</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>mcc quickstart</h1>\n<p class="lead">One model trained twice, <span class="dense">dense</span> and with '
        f'<span class="compressed">compressed</span> communication: same data, seed and steps. {verdict}</p>\n'
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )
    write_text(path, page)


def loss_figure(curves: Curves, unigram_entropy: float | None = None) -> Figure:
    """Training and held-out loss of every run against the step."""
    figure, axes = _figure(9.0, 4.2)
    for run, curve in curves.items():
        colour = _COLOURS.get(run, _FAINT)
        axes.plot(curve["step"], curve["loss"], color=colour, linewidth=0.9, alpha=0.45)
        axes.plot(
            curve.get("heldout_step", ()),
            curve.get("heldout_loss", ()),
            color=colour,
            # One curve may lie on the other: the first is broad, the second thin and above it.
            linewidth=4.0 if run == "dense" else 1.5,
            marker="o" if run == "dense" else "s",
            markersize=8 if run == "dense" else 5,
            markerfacecolor=colour if run == "dense" else "white",
            label=f"{run}, held-out",
        )
    if unigram_entropy is not None:
        axes.axhline(unigram_entropy, color=_FAINT, linestyle=":", linewidth=1.5)
        axes.annotate(
            f"entropy of single tokens, {unigram_entropy:.2f}",
            (1.0, unigram_entropy),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 5),
            textcoords="offset points",
            ha="right",
            color=_FAINT,
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a token")
    axes.set_xlim(left=0)
    if curves:
        axes.legend(frameon=False, loc="upper center")
    return figure


def bytes_figure(summary: Summary) -> Figure:
    """Bars of the bytes sent by site and run, on a logarithmic axis, each with its size and the saving."""
    wire = _wire(summary)
    sites = [site for site, _ in wire]
    figure, axes = _figure(9.0, 1.0 + 0.75 * max(1, len(sites)))
    height = 0.38
    for index, run in enumerate(RUNS):
        values = [sizes[index] for _, sizes in wire]
        places = [place + (index - 0.5) * height for place in range(len(sites))]
        # A logarithmic axis has no zero: nothing sent is no bar.
        axes.barh(places, [value or float("nan") for value in values], height, color=_COLOURS[run], label=run)
        for place, value, (_, sizes) in zip(places, values, wire, strict=True):
            ratio = _ratio(*sizes)
            saving = f"  ({ratio} less)" if run == "compressed" and ratio and sizes[0] > sizes[1] else ""
            axes.annotate(
                f"{_size(value)}{saving}",
                (max(value, 1), place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                color=_INK,
            )
    axes.set_xscale("log")
    sent = [value for _, sizes in wire for value in sizes if value]
    if sent:
        axes.set_xlim(min(sent) / 4, max(sent) * 8)  # room for the words beside the bars
    axes.set_yticks(range(len(sites)), sites)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("bytes sent")
    axes.xaxis.set_major_formatter(lambda value, _: _size(value, 0))
    if sites:
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside upper right", ncols=2)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in the page's style. No pyplot: it would keep state and look for a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)
    axes.tick_params(colors=_INK, which="both", length=3)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _image(figure: Figure, words: str) -> str:
    """The figure as an image inside the page."""
    import matplotlib

    drawn = io.BytesIO()
    # Without a date, a creator (a web address) and random names the same run gives the same page.
    with matplotlib.rc_context({"svg.hashsalt": "mcc"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    data = base64.b64encode(drawn.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(words)}" src="data:image/svg+xml;base64,{data}">'


def _section(title: str, body: str, note: str = "") -> str:
    heading = f"<h2>{html.escape(title)}</h2>\n" if title else ""
    after = f'\n<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<section>\n{heading}{body}{after}\n</section>"


def _facts(summary: Summary) -> str:
    facts = (
        (_show(summary.get("docs_in"), ","), "documents read"),
        (_show(summary.get("docs_kept"), ","), "kept after cleaning"),
        (_show(summary.get("tokens"), ","), "tokens"),
        (_show(summary.get("steps"), ","), "steps a run"),
        (_show(summary.get("hf_logits_max_abs_diff"), ".1e"), "largest logit difference to transformers"),
        (_duration(summary.get("seconds")), "in all"),
    )
    cells = "".join(f"<div><b>{value}</b><span>{words}</span></div>" for value, words in facts)
    return f'<div class="facts">{cells}</div>'


def _checks(summary: Summary) -> str:
    items = (
        f"<li>{_verdict(bool(passed))}{html.escape(str(name).replace('_', ' '))}</li>"
        for name, passed in summary.get("checks", {}).items()
    )
    return f'<ul class="checks">{"".join(items)}</ul>'


def _results(summary: Summary) -> str:
    rows = []
    for key, title, unit, form, better in _ROWS:
        dense, compressed = (summary.get("runs", {}).get(run, {}).get(key) for run in RUNS)
        change = "–"
        if isinstance(dense, (int, float)) and isinstance(compressed, (int, float)) and dense:
            change = f"{(compressed - dense) / dense:+.1%}"
        name = f"{title} <small>{unit}, {better} is better</small>"
        rows.append((name, _show(dense, form), _show(compressed, form), change))
    return _table(("", "dense", "compressed", "change"), rows)


def _bytes_table(summary: Summary) -> str:
    wire = _wire(summary)
    rows = [
        (html.escape(site), _size(dense), _size(compressed), _ratio(dense, compressed) or "–")
        for site, (dense, compressed) in wire
    ]
    dense, compressed = (sum(sizes[index] for _, sizes in wire) for index in (0, 1))
    rows.append(("all sites", _size(dense), _size(compressed), _ratio(dense, compressed) or "–"))
    return _table(("site", "dense", "compressed", "dense / compressed"), rows, total=True)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], total: bool = False) -> str:
    """A table of cells that are HTML already; `total` sets off the last row."""
    head = "".join(f'<th class="{column if column in RUNS else ""}">{column}</th>' for column in columns)
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    last = ' class="total"' if total else ""
    body = "".join(f"<tr{last if i == len(lines) - 1 else ''}>{line}</tr>" for i, line in enumerate(lines))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _wire(summary: Summary) -> list[tuple[str, tuple[int, int]]]:
    """(site, (dense bytes, compressed bytes)), most dense bytes first."""
    dense, compressed = (summary.get("runs", {}).get(run, {}).get("wire_bytes") or {} for run in RUNS)
    found = {site: (int(dense.get(site, 0)), int(compressed.get(site, 0))) for site in {*dense, *compressed}}
    return sorted(((site, sizes) for site, sizes in found.items() if any(sizes)), key=lambda row: (-row[1][0], row[0]))


def _verdict(passed: bool, words: str | None = None) -> str:
    return f'<span class="verdict {"pass" if passed else "fail"}">{words or ("pass" if passed else "fail")}</span>'


def _ratio(dense: int, compressed: int) -> str | None:
    return f"{dense / compressed:.1f}x" if dense and compressed else None


def _show(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, (int, float)) else "–"


def _size(count: float, digits: int = 1) -> str:
    """Bytes in decimal units.

    >>> _size(999), _size(1500), _size(2_000_000, 0), _size(0)
    ('999 B', '1.5 kB', '2 MB', '0 B')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} B" if unit == "B" else f"{count:.{digits}f} {unit}"


def _duration(seconds: Any) -> str:
    """
    >>> _duration(42.4), _duration(185), _duration(None)
    ('42 s', '3 min 5 s', '–')
    """
    if not isinstance(seconds, (int, float)):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
