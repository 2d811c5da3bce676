"""Fine-tuning real models in several layouts: the same losses and scores as in one process.

    python ../shared/tools/real_models.py models     # lays out minilm-bert and smollm2-135m, see its first lines
    python benchmarks/train/finetune.py mrpc      --models models --data ../shared/data --out out
    python benchmarks/train/finetune.py wikitext  --models models --data ../shared/data --out out

mrpc: a 6-layer BERT on the Microsoft Research Paraphrase Corpus, in one process and with TP 2 x PP 2. wikitext:
SmolLM2-135M on WikiText-2's validation text in one process, with PP 3 and with TP 3, and perplexity before and after on
the beginning of its test text; TP 2 must be refused. Commands are printed as they are run. Runs that are complete in
`--out` are not run again: `--only pp3` makes that one and ends. Exits with 1 when layouts differ.

The last line on stdout is rows as JSON; before it, tables of losses and scores.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from mcc.cli.console import table

MCC = [sys.executable, "-m", "mcc"]
LOSS_BAR = 1e-3  # of one step's loss; rounding grows with the steps


def mcc(*words: object) -> subprocess.CompletedProcess[str]:
    """Run `mcc` with these arguments; what it prints goes to stderr."""
    arguments = [str(word) for word in words]
    print(f"$ mcc {shlex.join(arguments)}", file=sys.stderr, flush=True)
    done = subprocess.run([*MCC, *arguments], capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, file=sys.stderr, flush=True)
    return done


def result(*words: object) -> Any:
    """What `mcc ... --json` prints."""
    done = mcc(*words, "--json")
    if done.returncode:
        sys.exit(f"mcc ended with {done.returncode}")
    return json.loads(done.stdout)


def trained(save: Path, settings: list[object], layout: list[object]) -> list[dict[str, Any]]:
    """The lines of a run's metrics; the run is made unless it is complete."""
    wanted = {"settings": [str(word) for word in [*settings, *layout]]}
    complete = save.parent / f"{save.name}.complete.json"
    if not complete.exists() or json.loads(complete.read_text()) != wanted:
        result("train", *settings, *layout, "--save", save, *(["--resume"] if (save / "latest").exists() else []))
        complete.write_text(json.dumps(wanted))
    return [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]


def all_trained(
    name: str, settings: list[object], layouts: dict[str, list[object]], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """The metrics of each layout's run; ends here where only one of them was wanted."""
    if options.only:
        trained(options.out / f"{name}-{options.only}", settings, layouts[options.only])
        sys.exit(0)
    return {layout: trained(options.out / f"{name}-{layout}", settings, words) for layout, words in layouts.items()}


def compare(name: str, runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Tables of the runs' losses and scores, and rows with how far the others are from the first."""
    one, *others = runs
    steps = {run: [line for line in lines if "loss" in line] for run, lines in runs.items()}
    scores = {run: [line for line in lines if "loss" not in line] for run, lines in runs.items()}
    shown = sorted({*range(0, len(steps[one]), max(1, len(steps[one]) // 10)), len(steps[one]) - 1})
    cells = [[steps[one][i]["step"], *(f"{steps[run][i]['loss']:.7f}" for run in runs)] for i in shown]
    table(f"{name}: loss of a step", ["step", *runs], cells)
    keys = [key for key in scores[one][0] if key != "step"]
    cells = [[line["step"], run, *(f"{line[key]:.7f}" for key in keys)] for run in runs for line in scores[run]]
    table(f"{name}: scores", ["step", "layout", *keys], cells)
    rows: list[dict[str, Any]] = []
    for run in others:
        pairs = list(zip(steps[one], steps[run], strict=True))
        far = max(abs(a["loss"] - b["loss"]) for a, b in pairs)
        row = {"what": f"{name}, {run}: largest difference of a step's loss to one process", "value": far}
        rows.append(row | {"bar": f"<= {LOSS_BAR}", "ok": far <= LOSS_BAR})
        for key in keys:
            far = max(abs(a[key] - b[key]) for a, b in zip(scores[one], scores[run], strict=True))
            bar = LOSS_BAR if key.endswith("loss") else 0.0
            what = f"{name}, {run}: largest difference of {key} to one process"
            rows.append({"what": what, "value": far, "bar": f"<= {bar}", "ok": far <= bar})
    return rows


def mrpc(options: argparse.Namespace) -> list[dict[str, Any]]:
    """MRPC with the weights of a real BERT."""
    data = options.data / "mrpc"
    if options.pairs:  # and a quarter of so many to score
        part = options.out / f"mrpc-{options.pairs}"
        part.mkdir(exist_ok=True)
        for name, count in (("train", options.pairs), ("test", options.pairs // 4)):
            lines = (data / f"msr_paraphrase_{name}.txt").read_bytes().splitlines(True)[: count + 1]
            (part / f"msr_paraphrase_{name}.txt").write_bytes(b"".join(lines))
        data = part
    settings: list[object] = [
        *("--load", options.models / "minilm-bert", "--task", "mrpc", "--task-data", data),
        *("--epochs", options.epochs, "--sample-length", 64, "--micro-batch-size", 8, "--global-batch-size", 16),
        *("--lr", 1e-4, "--lr-warmup-fraction", 0.1, "--lr-decay-style", "linear", "--save-interval", 100),
    ]
    layouts: dict[str, list[object]] = {"one": [], "tp2-pp2": ["--nproc", 4, "--tp", 2, "--pp", 2]}
    return compare("MRPC", all_trained("mrpc", settings, layouts, options))


def wikitext(options: argparse.Namespace) -> list[dict[str, Any]]:
    """WikiText-2 with SmolLM2-135M."""
    model, texts, out = options.models / "smollm2-135m", options.data / "wikitext2", options.out
    for part in ("valid", "test"):
        if not (out / f"wiki-{part}_text_document.idx").exists():
            text = texts / f"{part}.txt"
            result("data", "preprocess", text, "--output-prefix", out / f"wiki-{part}", "--tokenizer", model)
    settings: list[object] = [
        *("--load", model, "--finetune", "--data-path", out / "wiki-valid_text_document"),
        *("--valid-data-path", out / "wiki-test_text_document", "--sample-length", 256, "--eval-iters", 4),
        *("--micro-batch-size", 1, "--global-batch-size", 4, "--train-iters", options.steps),
        *("--lr", 5e-5, "--lr-warmup-iters", 2, "--lr-decay-style", "cosine"),
    ]
    layouts: dict[str, list[object]] = {
        "one": [],
        "pp3": ["--nproc", 3, "--pp", 3],
        "tp3": ["--nproc", 3, "--tp", 3],
    }
    refused = mcc("train", *settings, "--nproc", 2, "--tp", 2, "--save", out / "wikitext-tp2")
    named = all(number in refused.stderr for number in ("tp = 2", "num_attention_heads = 9", "num_query_groups = 3"))
    ok = refused.returncode == 2 and named
    rows: list[dict[str, Any]] = [{"what": f"TP 2: {refused.stderr.strip()}", "bar": "refused, with numbers", "ok": ok}]
    rows += compare("WikiText-2", all_trained("wikitext", settings, layouts, options))
    sample = out / "wiki-test-part.txt"
    sample.write_bytes(b"".join((texts / "test.txt").read_bytes().splitlines(True)[: options.lines]))
    perplexities = {}
    for name, checkpoint in {"before": model, **{name: out / f"wikitext-{name}" for name in layouts}}.items():
        words = ("eval", "perplexity", checkpoint, sample, "--overlap", 8192)
        perplexities[name] = result(*words)["perplexity"]
        rows.append({"what": f"WikiText-2, perplexity of a token, {name}", "value": perplexities[name]})
    rows[-1] |= {"bar": "lower than before", "ok": all(perplexities[run] < perplexities["before"] for run in layouts)}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mrpc", "wikitext"))
    parser.add_argument("--models", type=Path, required=True, help="folder that real_models.py laid out")
    parser.add_argument("--data", type=Path, required=True, help="folder with mrpc and wikitext2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=2, help="of MRPC")
    parser.add_argument("--pairs", type=int, default=0, help="first pairs of MRPC's training file [all]")
    parser.add_argument("--steps", type=int, default=12, help="of WikiText-2")
    parser.add_argument("--lines", type=int, default=110, help="of the test text for perplexity")
    parser.add_argument("--only", help="make this layout's run alone: one, tp2-pp2, pp3 or tp3")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = {"mrpc": mrpc, "wikitext": wikitext}[options.what](options)
    table(
        "Layouts",
        ["what", "value", "bar", "ok"],
        [[r["what"], r.get("value"), r.get("bar"), r.get("ok")] for r in rows],
    )
    print(json.dumps(rows))
    return 1 if any(row.get("ok") is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
