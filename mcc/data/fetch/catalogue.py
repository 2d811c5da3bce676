"""What `mcc data get` can fetch: where it is, how long, its checksum, whose it is, and what to do with it next.

Checksums are those of the publishers' files, each found alike in at least two independent public records (the
vocabularies' and LAMBADA's were computed from the files). What has none says so: nothing is made up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mcc.core.errors import UsageError, unknown


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file.

    Args:
        name: under which it is written.
        urls: tried in this order.
        size: in bytes, None when it changes.
        checksum: `sha256:...` or `md5:...`, None when there is none or `sums` has it.
        sums: address of a list of checksums (`HASH  NAME` a line) that the publisher keeps beside a file that changes.
        listed: how the line in `sums` ends that is about this file.
        unpack: whether the archive is unpacked beside it.
        rename: for members that are wanted under another name.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    checksum: str | None = None
    sums: str | None = None
    listed: str = ""
    unpack: bool = False
    rename: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something that can be got by name.

    Args:
        about: one line: what it is.
        licence: whose terms hold, as far as the publisher says; to be read before use.
        next: a command that uses it; `{folder}` stands for where it was written.
    """

    name: str
    about: str
    licence: str
    next: str
    items: tuple[Item, ...]


_GLUE = "https://dl.fbaipublicfiles.com/glue/data/"
_SENTEVAL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
_GLUE_LICENCE = "each corpus has its makers' terms: gluebenchmark.com/tasks"
_HUB = "https://huggingface.co/"
_S3_BERT = "https://s3.amazonaws.com/models.huggingface.co/bert/"


def _glue(task: str, about: str, archive: str, size: int, sha256: str) -> Entry:
    folder = archive.removesuffix(".zip").removesuffix("v2").removesuffix("-clean")
    return Entry(
        name=f"glue-{task}",
        about=f"GLUE: {about}",
        licence=_GLUE_LICENCE,
        next=f"head -n 3 {{folder}}/{folder}/dev{'_matched' if task == 'mnli' else ''}.tsv",
        items=(Item(name=archive, urls=(_GLUE + archive,), size=size, checksum=f"sha256:{sha256}", unpack=True),),
    )


_ENTRIES = (
    Entry(
        name="wiki",
        about="a Wikipedia's articles, the newest dump (--lang en, --date latest)",
        licence="CC BY-SA 4.0 and GFDL; dumps.wikimedia.org/legal.html",
        next="mcc data wiki {folder}/*pages-articles.xml.bz2 -o pages.jsonl --workers 8",
        items=(),
    ),
    Entry(
        name="wikitext-103",
        about="WikiText-103, raw: verified good and featured articles for language modelling (Merity et al. 2016)",
        licence="CC BY-SA",
        next="mcc data preprocess {folder}/train.txt --output-prefix wikitext --tokenizer tokenizer.json --append-eod",
        items=(
            Item(
                name="wikitext-103-raw-v1.zip",
                urls=(
                    "https://wikitext.smerity.com/wikitext-103-raw-v1.zip",
                    _HUB + "datasets/mattdangerw/wikitext-103-raw/resolve/main/wikitext-103-raw-v1.zip",
                    "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-raw-v1.zip",
                ),
                size=191_984_949,
                checksum="sha256:91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794",
                unpack=True,
                rename={
                    "wikitext-103-raw/wiki.train.raw": "train.txt",
                    "wikitext-103-raw/wiki.valid.raw": "valid.txt",
                    "wikitext-103-raw/wiki.test.raw": "test.txt",
                },
            ),
        ),
    ),
    Entry(
        name="lambada",
        about="LAMBADA's test passages as OpenAI detokenized them: predict the last word (Paperno et al. 2016)",
        licence="CC BY 4.0",
        next="mcc data decontaminate IN.jsonl -o OUT.jsonl --task lambada --task-file {folder}/lambada_test.jsonl",
        items=(
            Item(
                name="lambada_test.jsonl",
                urls=(
                    "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
                    "https://raw.githubusercontent.com/cybertronai/bflm/master/lambada_test.jsonl",
                ),
                size=1_819_752,
                checksum="sha256:4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
            ),
        ),
    ),
    _glue(
        "cola",
        "is a sentence acceptable English?",
        "CoLA.zip",
        376_971,
        "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff",
    ),
    _glue(
        "sst2",
        "is a film review positive?",
        "SST-2.zip",
        7_439_277,
        "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
    ),
    Entry(
        name="glue-mrpc",
        about="GLUE: does a sentence paraphrase another?",
        licence="Microsoft Research's terms for MSRP",
        next="head -n 3 {folder}/msr_paraphrase_train.txt",
        items=(
            Item(
                name="msr_paraphrase_train.txt",
                urls=(_SENTEVAL + "msr_paraphrase_train.txt",),
                size=1_047_044,
                checksum="sha256:60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
            ),
            Item(
                name="msr_paraphrase_test.txt",
                urls=(_SENTEVAL + "msr_paraphrase_test.txt",),
                size=441_275,
                checksum="sha256:a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
            ),
        ),
    ),
    _glue(
        "stsb",
        "how alike are two sentences?",
        "STS-B.zip",
        802_872,
        "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85",
    ),
    Entry(
        name="glue-qqp",
        about="GLUE: do two questions ask the same?",
        licence=_GLUE_LICENCE,
        next="head -n 3 {folder}/QQP/dev.tsv",
        items=(
            Item(
                name="QQP-clean.zip",
                urls=(_GLUE + "QQP-clean.zip",),
                checksum="sha256:40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0",
                unpack=True,
            ),
        ),
    ),
    _glue(
        "mnli",
        "does a text entail a sentence, over several genres?",
        "MNLI.zip",
        312_783_507,
        "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633",
    ),
    _glue(
        "qnli",
        "does a sentence answer a question?",
        "QNLIv2.zip",
        10_627_589,
        "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5",
    ),
    _glue(
        "rte",
        "does a text entail a sentence?",
        "RTE.zip",
        697_150,
        "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee",
    ),
    _glue(
        "wnli",
        "what does a pronoun refer to?",
        "WNLI.zip",
        28_999,
        "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46",
    ),
    Entry(
        name="race",
        about="RACE: reading comprehension from English examinations in China (Lai et al. 2017)",
        licence="for research that earns no money, says its page; ask the authors otherwise",
        next="mcc data decontaminate IN.jsonl -o OUT.jsonl --task race --task-file {folder}/RACE/test/high",
        items=(
            Item(
                name="RACE.tar.gz",
                urls=("http://www.cs.cmu.edu/~glai1/data/race/RACE.tar.gz",),
                checksum="sha256:b2769cc9fdc5c546a693300eb9a966cec6870bd349fbc44ed5225f8ad33006e5",
                unpack=True,
            ),
        ),
    ),
    Entry(
        name="gpt2-vocab",
        about="GPT-2's byte-level BPE: 50,257 tokens",
        licence="MIT (modified), OpenAI",
        next="mcc data preprocess IN.jsonl --output-prefix OUT --vocab-file {folder}/vocab.json "
        "--merge-file {folder}/merges.txt --append-eod",
        items=(
            Item(
                name="vocab.json",
                urls=(_HUB + "openai-community/gpt2/resolve/main/vocab.json", _S3_BERT + "gpt2-vocab.json"),
                size=1_042_301,
                checksum="sha256:196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
            ),
            Item(
                name="merges.txt",
                urls=(_HUB + "openai-community/gpt2/resolve/main/merges.txt", _S3_BERT + "gpt2-merges.txt"),
                size=456_318,
                checksum="sha256:1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
            ),
        ),
    ),
    Entry(
        name="bert-uncased-vocab",
        about="BERT's WordPiece vocabulary, lower case (base and large): 30,522 tokens",
        licence="Apache-2.0, Google",
        next="mcc data preprocess IN.jsonl --output-prefix OUT --vocab-file {folder}/vocab.txt --split-sentences",
        items=(
            Item(
                name="vocab.txt",
                urls=(
                    _HUB + "google-bert/bert-base-uncased/resolve/main/vocab.txt",
                    _S3_BERT + "bert-base-uncased-vocab.txt",
                ),
                size=231_508,
                checksum="sha256:07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        ),
    ),
    Entry(
        name="bert-cased-vocab",
        about="BERT's WordPiece vocabulary, cased (base and large): 28,996 tokens",
        licence="Apache-2.0, Google",
        next="mcc data preprocess IN.jsonl --output-prefix OUT --vocab-file {folder}/vocab.txt "
        "--tokenizer-type BertWordPieceCase --split-sentences",
        items=(
            Item(
                name="vocab.txt",
                urls=(
                    _HUB + "google-bert/bert-base-cased/resolve/main/vocab.txt",
                    _S3_BERT + "bert-base-cased-vocab.txt",
                ),
                size=213_450,
                checksum="sha256:eeaa9875b23b04b4c54ef759d03db9d1ba1554838f8fb26c5d96fa551df93d02",
            ),
        ),
    ),
    Entry(
        name="punkt",
        about="NLTK's Punkt: where sentences end, in many languages (Kiss and Strunk 2006)",
        licence="see README in the archive; trained by Jan Strunk on several corpora",
        next="mcc data preprocess IN.jsonl --output-prefix OUT --tokenizer T --split-sentences --punkt {folder}",
        items=(
            Item(
                name="punkt_tab.zip",
                # The commit is named, so that the file behind the address cannot change.
                urls=(
                    "https://raw.githubusercontent.com/nltk/nltk_data/550b6625bcef1f2abff2ff770a5a0d272c9c6b2a"
                    "/packages/tokenizers/punkt_tab.zip",
                    "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/tokenizers/punkt_tab.zip",
                ),
                size=4_319_076,
                checksum="sha256:e57f64187974277726a3417ca6f181ec5403676c717672eef6a748a7b20e0106",
                unpack=True,
            ),
        ),
    ),
)
CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def expand(names: Sequence[str]) -> list[str]:
    """Names of entries, without repetition; `glue` stands for all its tasks.

    >>> expand(["race", "glue"])[:3]
    ['race', 'glue-cola', 'glue-sst2']

    Raises:
        UsageError: a name is unknown.
    """
    found: dict[str, None] = {}
    for name in names:
        if name != "glue":
            find(name)
        matching = [known for known in CATALOGUE if known.startswith("glue-")] if name == "glue" else [name]
        found |= dict.fromkeys(matching)
    return list(found)


def find(name: str, lang: str = "en", date: str = "latest") -> Entry:
    """The entry of a name.

    Args:
        lang, date: of the Wikipedia, for `wiki`.

    Raises:
        UsageError: there is none; says which is nearest.
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        raise unknown("data set", name, [*CATALOGUE, "glue"])
    return _wiki(entry, lang, date) if name == "wiki" else entry


def _wiki(entry: Entry, lang: str, date: str) -> Entry:
    """The publisher lists the checksums of dated names; `latest` is one of them."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", lang):
        raise UsageError(f"no Wikipedia has the language {lang!r}", "its name in the address, as in --lang zh-min-nan")
    if not re.fullmatch(r"latest|\d{8}", date):
        raise UsageError(f"{date!r} is no date of a dump", "latest, or eight digits: --date 20260901")
    wiki = f"{lang.replace('-', '_')}wiki"
    base = f"https://dumps.wikimedia.org/{wiki}/{date}/{wiki}-{date}-"
    listed = "pages-articles.xml.bz2"
    item = Item(name=f"{wiki}-{date}-{listed}", urls=(base + listed,), sums=f"{base}sha1sums.txt", listed=f"-{listed}")
    return Entry(**{**vars(entry), "items": (item,)})
