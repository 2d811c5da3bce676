"""`report.html` of a pipeline: one file that needs no network, without scripts; texts of documents are escaped.

The bars are HTML and CSS. Memory does not grow with the corpus: rejected documents are read until there are enough
examples of each reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from mcc.core.files import write_text
from mcc.data.base.streams import open_input
from mcc.data.pipeline import Pipeline

if TYPE_CHECKING:
    from mcc.data.pipelines.run import PipelineReport, StepResult

_TEXT_CHARS = 600
# So many rejected documents are read, at most, to find examples of every reason.
_READ = 100_000
_LANGUAGES = 12

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; color: #1f2933;
  background: #f5f7fa; margin: 0; }
main { max-width: 64rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 1rem 0 .4rem; }
section { background: #fff; border: 1px solid #e4e7eb; border-radius: 10px; padding: 1.25rem 1.5rem;
  margin-top: 1.25rem; }
.lead { color: #52606d; margin: 0; } .wide { overflow-x: auto; } small, .note { color: #52606d; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .4rem .6rem; border-bottom: 1px solid #e4e7eb; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { color: #52606d; font-weight: 600; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .15rem .75rem; align-items: center;
  font-variant-numeric: tabular-nums; font-size: .9rem; }
.bars i { display: block; height: .8rem; background: #0072b2; border-radius: 2px; min-width: 1px; }
.bars span { text-align: right; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.5rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; background: #f5f7fa; padding: .6rem .8rem;
  border-radius: 6px; font-size: .85rem; margin: .3rem 0 .8rem; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


def write_page(path: Path, pipeline: Pipeline, report: PipelineReport) -> None:
    """Write the page of a finished pipeline to `path`."""
    sections = [_section("Through the steps", _steps(report.steps) + _kept_bars(report.steps))]
    sections += [_of_step(pipeline, step) for step in report.steps]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(pipeline.file.name)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(pipeline.file.name)}</h1>\n<p class="lead">{len(report.steps)} steps, '
        f"{sum(step.cached for step in report.steps)} of them done before; {report.seconds:,.1f} s</p>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )
    write_text(path, page)


def tokens_of(step: StepResult) -> tuple[int | None, bool]:
    """Tokens that a step left, and whether that is counted or estimated from a sample."""
    counted = step.report.get("tokens")
    if isinstance(counted, Mapping):
        return sum(counted.values()), True
    if step.profile is not None and step.profile["tokens"] is not None:
        return step.profile["tokens"], bool(step.profile["tokens_exact"])
    return None, True


def _steps(steps: Sequence[StepResult]) -> str:
    rows = []
    for step in steps:
        tokens, exact = tokens_of(step)
        shown = "–" if tokens is None else f"{'' if exact else '≈ '}{tokens:,}"
        kind = f" <small>{step.stage}</small>" if step.name != step.stage else ""
        seconds = "done before" if step.cached else f"{step.report['seconds']:,.1f}"
        rows.append(
            [
                f"{step.number}. {escape(step.name)}{kind}",
                f"{step.report['documents_in']:,}",
                f"{step.report['documents_out']:,}",
                f"{sum(step.report['rejected'].values()):,}",
                f"{step.profile['bytes']:,}" if step.profile else "–",
                f"{step.bytes_out:,}",
                shown,
                seconds,
            ]
        )  # fmt: skip
    names = {step.profile["tokens_of"] for step in steps if step.profile}
    words = "tokens are words between white space"
    note = "; ".join(words if name == "words" else f"tokens of {escape(name)}" for name in sorted(names))
    head = ("step", "documents in", "documents out", "rejected", "bytes of text", "bytes on disk", "tokens", "seconds")
    return _table(head, rows) + (f'<p class="note">{note}; ≈: from a sample</p>' if note else "")


def _kept_bars(steps: Sequence[StepResult]) -> str:
    left = [(f"{step.number}. {step.name}", step.report["documents_out"]) for step in steps if step.profile]
    return "<h3>Documents left</h3>" + _bars(left) if left else ""


def _of_step(pipeline: Pipeline, step: StepResult) -> str:
    parts = []
    rejected = dict(step.report["rejected"])
    if step.report["bad_lines"]:
        rejected["bad line"] = step.report["bad_lines"]
    if rejected:
        parts.append("<h3>Rejected</h3>" + _bars(sorted(rejected.items(), key=lambda item: -item[1])))
    if step.profile:
        lengths = [(_length(low), n) for low, n in step.profile["lengths"].items()]
        languages = list(step.profile["languages"].items())
        shown = languages[:_LANGUAGES]
        if rest := sum(n for _, n in languages[_LANGUAGES:]):
            shown.append(("others", rest))
        parts.append(
            '<div class="pair"><div><h3>Length <small>characters, documents</small></h3>'
            + _bars(lengths)
            + f"</div><div><h3>Language <small>of {sum(n for _, n in languages):,} documents</small></h3>"
            + _bars(shown)
            + "</div></div>"
        )
    examples = _examples(step, pipeline.report.examples)
    if examples:
        parts.append("<h3>Examples of what was rejected</h3>" + examples)
    facts = [
        f"{escape(key.replace('_', ' '))}: {_value(value)}"
        for key, value in step.report.items()
        if key not in _USUAL and value not in (None, {}, ())
    ]
    if facts:
        parts.append(f'<p class="note">{" · ".join(facts)}</p>')
    outputs = ", ".join(escape(str(path)) for path in step.report["outputs"])
    parts.append(f'<p class="note">wrote {outputs}</p>')
    return _section(f"{step.number}. {step.name}", "\n".join(parts))


_USUAL = {
    "step", "documents_in", "documents_out", "chars_in", "chars_out", "rejected", "bad_lines", "max_errors", "seconds",
    "outputs",
}  # fmt: skip


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return escape(", ".join(f"{name} {_value(item)}" for name, item in value.items()))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else escape(str(value))


def _length(low: str) -> str:
    least = int(low)
    return "0" if least == 0 else "1" if least == 1 else f"{least:,} - {2 * least - 1:,}"


def _examples(step: StepResult, wanted: int) -> str:
    """The first few rejected documents of each reason."""
    found: Counter[str] = Counter()
    reasons = len(step.report["rejected"]) + bool(step.report["bad_lines"])
    shown = []
    for path in map(Path, step.report["outputs"]):
        if "rejects" not in path.name or not path.is_file() or path.suffix == ".parquet" or not wanted:
            continue
        with open_input(path) as lines:
            for number, line in enumerate(lines):
                if number >= _READ or (len(found) >= reasons and min(found.values(), default=0) >= wanted):
                    break
                record = orjson.loads(line)
                reason = str(record.get("reason", ""))
                kind = reason.partition(":")[0]
                if found[kind] >= wanted:
                    continue
                found[kind] += 1
                text = str(record.get("text", record.get("line", "")))
                more = f" … <small>({len(text):,} characters)</small>" if len(text) > _TEXT_CHARS else ""
                where = escape(str(record.get("where", "")))
                shown.append(
                    f"<div><b>{escape(reason)}</b> <small>{where}</small>"
                    f"<pre>{escape(_printable(text[:_TEXT_CHARS]))}{more}</pre></div>"
                )
    return "\n".join(shown)


def _printable(text: str) -> str:
    """Without control characters, which no page may hold, and without those that turn the direction of text."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _bars(rows: Iterable[tuple[str, int]]) -> str:
    values = list(rows)
    largest = max((value for _, value in values), default=0) or 1
    cells = "".join(
        f'<div>{escape(name)}</div><i style="width:{100 * value / largest:.2f}%"></i><span>{value:,}</span>'
        for name, value in values
    )
    return f'<div class="bars">{cells}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{name}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"
