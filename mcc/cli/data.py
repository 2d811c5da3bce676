"""`mcc data`: from raw text to token files, a command a step. Each streams, and each has a function of its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcc.cli import console
from mcc.core.config import build
from mcc.core.errors import UsageError

if TYPE_CHECKING:
    from mcc.data.indexed import IndexedDataset
    from mcc.data.step import StepReport

app = typer.Typer(
    name="data",
    help="From raw text to token files, a step a command. Steps read and write JSON lines with a [cyan]text[/] "
    "(.jsonl, .jsonl.gz, .jsonl.bz2, .jsonl.zst) and read plain .txt; other keys are kept. Patterns in quotes "
    "('part-*.jsonl') are expanded in order.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_Inputs = Annotated[list[Path], typer.Argument(metavar="IN...", help="Files to read, in order.", show_default=False)]
_Output = Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="File to write; it appears when whole.")]
_Rejects = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Where rejected documents go \\[default: OUT.rejects.jsonl].")
]
_READING = "Reading"
_Key = Annotated[
    str | None, typer.Option("--text-key", help="Key that holds the text \\[default: text].", rich_help_panel=_READING)
]
_MaxErrors = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Bad lines that are set aside; one more fails \\[default: 0].", rich_help_panel=_READING
    ),
]
_OnError = Annotated[
    str | None,
    typer.Option(
        metavar="reject|fail", help="Set bad lines aside, or stop \\[default: reject].", rich_help_panel=_READING
    ),
]
_Seed = Annotated[int | None, typer.Option(help="Seed \\[default: 1234].")]
_Workers = Annotated[int | None, typer.Option(help="Processes \\[default: 1].")]


def _given(**values: Any) -> dict[str, Any]:
    """The options that stand on the command line; the others keep the default of the configuration."""
    return {name: value for name, value in values.items() if value is not None}


def _read(keys: tuple[str, ...] | None, on_error: str | None, max_errors: int | None) -> dict[str, Any]:
    return _given(keys=keys, on_error=on_error, max_errors=max_errors)


def _words(values: list[str] | None) -> tuple[str, ...] | None:
    """`a,b` and repeated options are the same list."""
    if values is None:
        return None
    return tuple(word.strip() for value in values for word in value.split(",") if word.strip())


def _show(report: StepReport, as_json: bool, *rows: tuple[str, Any]) -> None:
    """The report of a step: JSON, or a table of what it read, what became of it, and where that is."""
    if as_json:
        console.print_json(report)
        return
    shown: list[tuple[str, Any]] = [("documents in", report.documents_in), *rows]
    shown += [(f"rejected: {reason}", count) for reason, count in report.rejected.items()]
    if report.bad_lines:
        shown.append(("bad lines", report.bad_lines))
    shown.append(("seconds", report.seconds))
    shown += [("wrote", path) for path in report.outputs]
    console.table(report.step, ["", ""], [(name, console.cell(value)) for name, value in shown])


def _kept(report: StepReport) -> list[tuple[str, Any]]:
    return [
        ("documents out", report.documents_out),
        ("characters in", report.chars_in),
        ("characters out", report.chars_out),
    ]


@app.command()
def wiki(
    dumps: Annotated[list[Path], typer.Argument(metavar="DUMP...", help="pages-articles: .xml, .xml.bz2, .xml.gz.")],
    output: _Output,
    lists: Annotated[bool | None, typer.Option("--lists/--no-lists", help="Keep list items \\[default: yes].")] = None,
    headings: Annotated[
        str | None, typer.Option(metavar="keep|drop", help="Section headings \\[default: keep].")
    ] = None,
    min_chars: Annotated[int | None, typer.Option(help="Drop shorter articles \\[default: 1].")] = None,
    as_json: console.JSON = False,
) -> None:
    """Turn MediaWiki dumps into documents: {id, url, title, text}, articles only, no markup.

    Example: [cyan]mcc data wiki enwiki-latest-pages-articles.xml.bz2 -o pages.jsonl[/]
    """
    from mcc.data.wiki import WikiConfig, wiki

    config = build(WikiConfig, _given(text=_given(lists=lists, headings=headings), min_chars=min_chars))
    report = wiki(dumps, output, config, console.reporter())
    _show(report, as_json, ("pages", report.pages), ("redirects", report.redirects), *_kept(report))


@app.command()
def clean(
    inputs: _Inputs,
    output: _Output,
    filters: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help="Filters in order \\[default: ftfy,whitespace,language,min-chars]."),
    ] = None,
    lang: Annotated[str | None, typer.Option(help="Language to keep (filter language) \\[default: en].")] = None,
    min_chars: Annotated[int | None, typer.Option(help="Least characters (filter min-chars) \\[default: 512].")] = None,
    min_tokens: Annotated[int | None, typer.Option(help="Least tokens (filter min-tokens) \\[default: 128].")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FILTER.OPTION=VALUE", help="Any option of a filter.")
    ] = None,
    rejects: _Rejects = None,
    workers: _Workers = None,
    text_key: _Key = None,
    on_error: _OnError = None,
    max_errors: _MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Keep good documents: filters in order, each may change a text or reject it with a reason.

    The filters and their options: [cyan]mcc data filters[/]

    Example: [cyan]mcc data clean pages.jsonl -o clean.jsonl --lang en --min-chars 512[/]

    Example: [cyan]mcc data clean 'part-*.jsonl' -o clean.jsonl.gz --filters ftfy,min-tokens --min-tokens 50[/]
    """
    from mcc.data.filtering import CleanConfig, clean

    options = _filter_options(settings or [])
    for name, option, value in (
        ("language", "lang", lang),
        ("min-chars", "chars", min_chars),
        ("min-tokens", "tokens", min_tokens),
    ):
        if value is not None:
            options.setdefault(name, {})[option] = value
    read = _read(_words([text_key]) if text_key else None, on_error, max_errors)
    values = _given(filters=_words(filters), options=options, workers=workers, read=read)
    report = clean(inputs, output, build(CleanConfig, values), console.reporter(), rejects=rejects)
    changed = [(f"changed: {name}", count) for name, count in report.changed.items()]
    _show(report, as_json, *_kept(report), *changed)


def _filter_options(settings: list[str]) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        name, dot, option = path.partition(".")
        if not (equals and dot and name and option):
            raise UsageError(f"--set {setting!r} is not FILTER.OPTION=VALUE", "for example --set min-chars.chars=256")
        options.setdefault(name.replace("_", "-"), {})[option.replace("-", "_")] = value
    return options


@app.command()
def filters(as_json: console.JSON = False) -> None:
    """List the filters that [cyan]mcc data clean[/] knows, with their options.

    Example: [cyan]mcc data filters --json[/]
    """
    from mcc.core.config import settings
    from mcc.data.filtering import FILTERS

    rows: list[dict[str, Any]] = []
    for name, cls in FILTERS.all():
        options = {
            setting.name: {"default": setting.default, "help": setting.help} for setting in settings(cls.Options)
        }
        rows.append({"name": name, "what": FILTERS.describe(name), "options": options})
    if as_json:
        console.print_json(rows)
        return
    shown = []
    for row in rows:
        shown.append((row["name"], row["what"], ""))
        for option, about in row["options"].items():
            shown.append((f"  {option}", about["help"], repr(about["default"])))
    console.table("filters", ["filter", "what it does", "default"], shown)


@app.command()
def dedup(
    inputs: _Inputs,
    output: _Output,
    threshold: Annotated[float | None, typer.Option(help="Least Jaccard index of duplicates \\[default: 0.8].")] = None,
    duplicates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write {removed, kept, similarity}, a line a document.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Key that names a document there \\[default: id, url or FILE:LINE].")
    ] = None,
    shingle_chars: Annotated[int | None, typer.Option(help="Characters of a shingle \\[default: 5].")] = None,
    num_perm: Annotated[int | None, typer.Option(help="Values of a signature, at most \\[default: 128].")] = None,
    bands: Annotated[int | None, typer.Option(help="Bands \\[default: datasketch's choice].")] = None,
    rows: Annotated[int | None, typer.Option(help="Values of a band \\[default: datasketch's choice].")] = None,
    text_key: _Key = None,
    on_error: _OnError = None,
    max_errors: _MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Remove near-duplicates: MinHash-LSH finds candidates, the exact Jaccard index decides, the first one stays.

    Example: [cyan]mcc data dedup clean.jsonl -o unique.jsonl --threshold 0.8 --duplicates removed.jsonl[/]
    """
    from mcc.data.dedup import DedupConfig, dedup

    values = _given(
        threshold=threshold, shingle_chars=shingle_chars, num_perm=num_perm, bands=bands, rows=rows, key=key
    )
    values["read"] = _read((text_key,) if text_key else None, on_error, max_errors)
    report = dedup(inputs, output, build(DedupConfig, values), console.reporter(), duplicates=duplicates)
    compared = (f"compared ({report.bands} bands of {report.rows})", report.candidates)
    _show(report, as_json, *_kept(report), ("removed", report.removed), compared)


@app.command()
def decontaminate(
    inputs: _Inputs,
    output: _Output,
    task: Annotated[
        list[str], typer.Option(metavar="NAME", help="Task: lambada, squad, ..., or jsonl; may be repeated.")
    ],
    task_file: Annotated[list[Path], typer.Option(metavar="FILE", help="The task's JSON lines, one for each --task.")],
    task_key: Annotated[
        str | None, typer.Option(help="Key of the text in the task files \\[default: the task's].")
    ] = None,
    max_ngram: Annotated[int | None, typer.Option(help="Words of an n-gram \\[default: 13].")] = None,
    min_ngram: Annotated[int | None, typer.Option(help="Words of the shortest task text \\[default: 8].")] = None,
    key_threshold: Annotated[
        int | None, typer.Option(help="Leave n-grams alone that so many documents hold \\[default: 10].")
    ] = None,
    remove_chars_each_side: Annotated[int | None, typer.Option(help="Cut so far around one \\[default: 200].")] = None,
    min_piece_chars: Annotated[
        int | None, typer.Option(help="Drop pieces not longer than this \\[default: 200].")
    ] = None,
    max_pieces: Annotated[int | None, typer.Option(help="Drop documents in more pieces \\[default: 10].")] = None,
    text_key: _Key = None,
    on_error: _OnError = None,
    max_errors: _MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Cut the passages of evaluation tasks out of documents, by GPT-3's 13-gram rule as Megatron-LM applies it.

    Example: [cyan]mcc data decontaminate unique.jsonl -o train.jsonl --task lambada --task-file lambada_test.jsonl[/]
    """
    from mcc.data.decontaminate import DecontaminateConfig, decontaminate

    if len(task) != len(task_file):
        raise UsageError(f"{len(task)} --task but {len(task_file)} --task-file", "give one file for each task")
    values = _given(
        max_ngram=max_ngram,
        min_ngram=min_ngram,
        key_threshold=key_threshold,
        remove_chars_each_side=remove_chars_each_side,
        min_piece_chars=min_piece_chars,
        max_pieces=max_pieces,
    )
    values["tasks"] = [
        _given(name=name, path=str(path), key=task_key) for name, path in zip(task, task_file, strict=True)
    ]
    values["read"] = _read((text_key,) if text_key else None, on_error, max_errors)
    report = decontaminate(inputs, output, build(DecontaminateConfig, values), console.reporter())
    rows = [(f"n-grams: {name}", count) for name, count in report.ngrams.items()]
    rows += [("n-grams left alone", report.common), ("records out", report.documents_out)]
    rows += [(f"cut out: {name}", count) for name, count in report.matched.items()]
    rows += [("trimmed", report.trimmed), ("split", report.split), ("dropped", report.dropped)]
    _show(report, as_json, *rows)


@app.command()
def shuffle(
    inputs: _Inputs,
    output: _Output,
    seed: _Seed = None,
    bucket_bytes: Annotated[int | None, typer.Option(help="Text in memory at once \\[default: 67108864].")] = None,
    text_key: _Key = None,
    on_error: _OnError = None,
    max_errors: _MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Put documents into a random order, however many there are; the same seed gives the same order.

    Example: [cyan]mcc data shuffle train.jsonl -o shuffled.jsonl --seed 1234[/]
    """
    from mcc.data.shuffle import ShuffleConfig, shuffle

    values = _given(seed=seed, bucket_bytes=bucket_bytes)
    values["read"] = _read((text_key,) if text_key else None, on_error, max_errors)
    report = shuffle(inputs, output, build(ShuffleConfig, values), console.reporter())
    _show(report, as_json, ("documents out", report.documents_out))


@app.command()
def tokenizer(
    inputs: _Inputs,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="A .json file, or a folder for tokenizer.json.")
    ],
    vocab_size: Annotated[int | None, typer.Option(help="Tokens in the vocabulary \\[default: 4096].")] = None,
    min_frequency: Annotated[int | None, typer.Option(help="Least count of a merged pair \\[default: 2].")] = None,
    text_key: _Key = None,
    on_error: _OnError = None,
    max_errors: _MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Train a byte-level BPE tokenizer (GPT-2's kind) with the token <|endoftext|>.

    Example: [cyan]mcc data tokenizer shuffled.jsonl -o tokenizer.json --vocab-size 8192[/]
    """
    from mcc.data.tokenizer import TokenizerConfig, train_tokenizer

    values = _given(vocab_size=vocab_size, min_frequency=min_frequency)
    values["read"] = _read((text_key,) if text_key else None, on_error, max_errors)
    report = train_tokenizer(inputs, output, build(TokenizerConfig, values), console.reporter())
    _show(report, as_json, ("characters", report.chars_in), ("vocabulary", report.vocab_size))


@app.command()
def preprocess(
    inputs: _Inputs,
    output_prefix: Annotated[Path, typer.Option(metavar="PREFIX", help="Files are PREFIX_KEY_document.bin/.idx.")],
    tokenizer: Annotated[
        Path,
        typer.Option(metavar="PATH", help="tokenizer.json, its folder, or GPT-2's vocab.json + merges.txt in one."),
    ],
    append_eod: Annotated[bool, typer.Option("--append-eod", help="End every document with its end token.")] = False,
    workers: _Workers = None,
    json_keys: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help="Keys to tokenize, each into files of its own \\[default: text]."),
    ] = None,
    on_error: _OnError = None,
    max_errors: _MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Tokenize documents into Megatron-LM's .bin/.idx files, byte for byte as Megatron-LM writes them.

    Example: [cyan]mcc data preprocess in.jsonl --output-prefix data/wiki --tokenizer tokenizer.json --append-eod[/]
    """
    from mcc.data.preprocess import PreprocessConfig, preprocess

    values = _given(append_eod=append_eod, workers=workers)
    values["read"] = _read(_words(json_keys), on_error, max_errors)
    report = preprocess(inputs, output_prefix, tokenizer, build(PreprocessConfig, values), console.reporter())
    tokens = [(f"tokens: {key}", count) for key, count in report.tokens.items()]
    _show(report, as_json, *tokens, ("vocabulary", report.vocab_size), ("stored as", report.dtype))


@app.command()
def holdout(
    inputs: _Inputs,
    output: _Output,
    held_out: Annotated[Path, typer.Option(metavar="FILE", help="File for the documents that are set aside.")],
    share: Annotated[float | None, typer.Option(help="Share that is set aside \\[default: 0.05].")] = None,
    seed: _Seed = None,
    text_key: _Key = None,
    on_error: _OnError = None,
    max_errors: _MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Set documents aside to measure on. A document's text and the seed decide, so the order does not matter.

    Example: [cyan]mcc data holdout dedup.jsonl -o pool.jsonl --held-out heldout.jsonl --share 0.05[/]
    """
    from mcc.data.holdout import HoldOutConfig, hold_out

    values = _given(share=share, seed=seed)
    values["read"] = _read((text_key,) if text_key else None, on_error, max_errors)
    report = hold_out(inputs, output, held_out, build(HoldOutConfig, values), console.reporter())
    _show(report, as_json, ("documents out", report.documents_out), ("held out", report.held_out))


@app.command()
def cloze(
    inputs: _Inputs,
    output: _Output,
    count: Annotated[int | None, typer.Option(help="Passages to make \\[default: 300].")] = None,
    min_words: Annotated[int | None, typer.Option(help="Words of the shortest passage \\[default: 20].")] = None,
    max_words: Annotated[int | None, typer.Option(help="Words of the longest passage \\[default: 60].")] = None,
    min_letters: Annotated[int | None, typer.Option(help="Letters of the shortest target \\[default: 4].")] = None,
    per_document: Annotated[int | None, typer.Option(help="Passages of one document, at most \\[default: 4].")] = None,
    seed: _Seed = None,
    text_key: _Key = None,
    on_error: _OnError = None,
    max_errors: _MaxErrors = None,
    as_json: console.JSON = False,
) -> None:
    """Make a cloze task in LAMBADA's format from held-out documents: predict the last word, seen before in the passage.

    Example: [cyan]mcc data cloze heldout.jsonl -o cloze.jsonl --count 300 --max-words 60[/]
    """
    from mcc.data.cloze import ClozeConfig, cloze

    values = _given(
        count=count,
        min_words=min_words,
        max_words=max_words,
        min_letters=min_letters,
        per_document=per_document,
        seed=seed,
    )
    values["read"] = _read((text_key,) if text_key else None, on_error, max_errors)
    report = cloze(inputs, output, build(ClozeConfig, values), console.reporter())
    _show(report, as_json, ("candidates", report.candidates), ("passages", report.documents_out))


@app.command()
def inspect(
    prefix: Annotated[Path, typer.Argument(metavar="PREFIX", help="Path of the .bin and .idx files, without ending.")],
    doc: Annotated[int | None, typer.Option(metavar="N", help="Show document N too (from 0).")] = None,
    decode: Annotated[Path | None, typer.Option(metavar="TOKENIZER", help="Show tokens as text.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a document that are shown.")] = 64,
    as_json: console.JSON = False,
) -> None:
    """Show what token files hold: counts, lengths, and documents as ids or as text. Checks every pointer.

    Example: [cyan]mcc data inspect data/wiki_text_document --doc 0 --decode tokenizer.json[/]
    """
    from mcc.data.indexed import IndexedDataset
    from mcc.data.statistics import length_histogram, unigram_entropy

    dataset = IndexedDataset(prefix)
    dataset.verify()
    if decode is not None and doc is None:
        doc = 0
    tokens = dataset.tokens
    summary: dict[str, Any] = {
        "prefix": str(dataset.prefix),
        "documents": dataset.documents,
        "sequences": len(dataset),
        "tokens": tokens,
        "dtype": str(dataset.dtype),
        "bytes": tokens * dataset.dtype.itemsize,
        "shortest": int(dataset.sizes.min()) if len(dataset) else None,
        "mean_length": tokens / len(dataset) if len(dataset) else None,
        "longest": int(dataset.sizes.max()) if len(dataset) else None,
        "unigram_entropy_nats": unigram_entropy(dataset) if tokens else None,
    }
    histogram = length_histogram(dataset)
    shown = None if doc is None else _document(dataset, doc, decode, max_tokens)
    if as_json:
        bins = [{"from": low, "below": high, "sequences": count} for low, high, count in histogram]
        console.print_json({**summary, "lengths": bins, **({} if shown is None else {"document": shown})})
        return
    console.table(str(prefix), ["", ""], [(name.replace("_", " "), console.cell(v)) for name, v in summary.items()])
    most = max((count for *_, count in histogram), default=1)
    rows = [(f"{low:,} - {high - 1:,}", count, "█" * round(40 * count / most)) for low, high, count in histogram]
    console.table("lengths in tokens", ["tokens", "sequences", ""], rows)
    if shown is not None:
        print(f"document {shown['document']}: {shown['length']:,} tokens")
        print(shown["text"] if shown["text"] is not None else " ".join(map(str, shown["tokens"])))


def _document(dataset: IndexedDataset, doc: int, decode: Path | None, max_tokens: int) -> dict[str, Any]:
    """The first tokens of a document, and their text when a tokenizer is given."""
    import numpy as np

    from mcc.core.errors import MccError

    if not 0 <= doc < dataset.documents:
        raise UsageError(f"no document {doc} in {dataset.prefix}", f"there are {dataset.documents}, from 0")
    sequences = range(int(dataset.doc_idx[doc]), int(dataset.doc_idx[doc + 1]))
    ids = np.concatenate([dataset[i] for i in sequences]) if len(sequences) else np.empty(0, dtype=dataset.dtype)
    text = None
    if decode is not None:
        from mcc.data.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(decode)
        if len(ids) and int(ids.max()) >= tokenizer.vocab_size:
            raise MccError(
                f"token {int(ids.max())} of document {doc} is not in {decode} ({tokenizer.vocab_size} tokens)",
                "give the tokenizer that wrote the file",
            )
        text = tokenizer.decode(ids[:max_tokens].tolist())
    return {"document": doc, "length": len(ids), "tokens": ids[:max_tokens].tolist(), "text": text}
