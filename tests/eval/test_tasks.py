"""Every task plug-in, and that the harness's own definition of the same task makes the same requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.eval import catalogue
from mcc.eval.catalogue import Entry, entries, parse_task_files
from mcc.eval.quiet import quiet
from mcc.eval.task import number_below, read_documents, tasks

_QUESTIONS = [
    {"question": "Ann has a  _  .", "answer": "B", "options": ["dog", "cat", "cow", "hen"]},
    {"question": "What is Ann's?", "answer": "D", "options": ["a dog", "a cow", "a hen", "a cat"]},
]
RECORDS: dict[str, list[dict[str, Any]]] = {
    "cloze": [
        {"text": "the cat sat on the mat"},
        {"context": "one two ", "target": "three"},
        {"text": "a\nlong  way\tdown "},
    ],
    "lambada": [{"text": 'He said: "go on."'}, {"text": "one two  three"}, {"text": "x y\nz"}],
    "piqa": [
        {"goal": "open a jar", "sol1": "turn the lid", "sol2": "eat {{the}} lid", "label": 0},
        {"goal": "boil water", "sol1": "freeze it", "sol2": "heat it", "label": "1", "id": 7},
        {"goal": "close a door", "sol1": "push it", "sol2": "paint it", "label": 0},
    ],
    "mathqa": [
        {"Problem": "1 + 1 ?", "options": "a ) 1 , b ) 2 , c ) 3.5 , d ) 1 , 000 , e ) none of these", "correct": "b"},
        {"Problem": "2 x 3 ?", "options": "a ) 6 , b ) 5 , c ) 4 , d ) 3 , e ) 2", "correct": "a"},
        {"Problem": "7 - 2 ?", "options": "a ) rs . 5 , b ) 6 , c ) 7 , d ) 8 , e ) 9", "correct": "e"},
    ],
    "race": [
        {"article": "Ann has a cat.", "problems": repr(_QUESTIONS)},
        {"article": "It's late.", "problems": repr(_QUESTIONS[1:])},
        {"article": "Go on.", "problems": repr(_QUESTIONS[:1])},
    ],
    "hellaswag": [
        {
            "activity_label": "Baking",
            "ctx_a": "A man has flour. [header] Mix it [title] Now.",
            "ctx_b": "he",
            "endings": ["bakes a [substeps] cake.", "sings.", "runs  off.", "[title] Sleeps."],
            "label": "0",
        },
        {"activity_label": "Run", "ctx_a": "She runs", "ctx_b": "", "endings": ["a", "b", "c", "d"], "label": 3},
        {"activity_label": "Swim", "ctx_a": "We swim.", "ctx_b": "then", "endings": ["w", "x", "y", "z"], "label": 2},
    ],
    "winogrande": [
        {"sentence": "Ann beat Sue because _ was fast.", "option1": "Ann", "option2": "Sue", "answer": "1"},
        {"sentence": "The _ did not fit the box, it was big.", "option1": "ball", "option2": "box", "answer": "1"},
        {"sentence": "Bob thanked Tim since _ had helped.", "option1": "Bob", "option2": "Tim", "answer": "2"},
    ],
}
# The harness's definition of the same task: a file below lm_eval/tasks.
THEIRS = {
    "lambada": "lambada/lambada_openai.yaml",
    "mathqa": "mathqa/mathqa.yaml",
    "piqa": "piqa/piqa.yaml",
    "race": "race/race.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
}
Jsonl = Callable[..., Path]


def build(entry: Entry, num_fewshot: int = 0) -> list[tuple[Any, ...]]:
    (task,) = entry.loaded["tasks"].values()
    return requests(task)


def requests(task: Any) -> list[tuple[Any, ...]]:
    with quiet():
        task.build_all_requests(limit=None, rank=0, world_size=1)
    return [instance.args for instance in task.instances]


def test_every_task_has_records_here() -> None:
    assert tasks.names() == sorted(RECORDS)


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_contract(name: str, jsonl: Jsonl) -> None:
    """Fields are said, a missing one is refused with its line, metrics are the harness's, the right answer counts."""
    task = tasks.get(name)()
    assert task.fields and task.metrics and tasks.describe(name)
    (entry,) = entries([name], {name: jsonl(RECORDS[name])}, 0)
    (built,) = entry.loaded["tasks"].values()
    made = build(entry)
    assert made and all(isinstance(text, str) and text for pair in made for text in pair)
    assert set(built.aggregation()) == set(task.metrics)
    document = built.test_docs()[0]
    if task.choices(document) is not None:
        right = document.get("label", document.get("answer"))
        if name in ("mathqa", "race"):
            right = task.target(document)
        results = [(0.0 if i == right else -9.0, False) for i in range(len(task.choices(document) or ()))]
        wrong = [(-9.0 if i == right else 0.0, False) for i in range(len(results))]
        assert built.process_results(document, results)["acc"] == 1.0
        assert built.process_results(document, wrong)["acc"] == 0.0
    bad = dict(RECORDS[name][1])
    first = next(iter(set(bad) & set(task.fields)))
    del bad[first]
    with pytest.raises(MccError, match=rf"bad.jsonl:2: no field '{first}'"):
        read_documents(task, jsonl([RECORDS[name][0], bad], "bad.jsonl"))


@pytest.mark.parametrize("num_fewshot", [0, 2])
@pytest.mark.parametrize("name", sorted(THEIRS))
def test_requests_are_those_of_the_harness(name: str, num_fewshot: int, jsonl: Jsonl) -> None:
    import datasets
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    class Theirs(ConfigurableTask):  # type: ignore[misc]
        def download(self, *_: Any, **__: Any) -> None:
            # A column has one type in their data sets: digits in HellaSwag's, numbers in PIQA's.
            one = {"hellaswag": str, "piqa": int}.get(name, str)
            records = [{**row, "label": one(row["label"])} if "label" in row else row for row in RECORDS[name]]
            found = datasets.Dataset.from_list(records)
            self.dataset = {"validation": found, "test": found}

    folder = Path(lm_eval.tasks.__file__).parent
    config = load_yaml(folder / THEIRS[name], resolve_func=True)
    config = {key: value for key, value in config.items() if key not in ("tag", "training_split")}
    split = "test" if config.get("test_split") else "validation"
    with quiet():
        theirs = Theirs(config={**config, "test_split": split, "fewshot_split": split})
    theirs.set_config(key="num_fewshot", value=num_fewshot)
    theirs.set_fewshot_seed(seed=1234)
    (entry,) = entries([name], {name: jsonl(RECORDS[name])}, num_fewshot)
    assert build(entry) == requests(theirs)
    (ours,) = entry.loaded["tasks"].values()
    assert set(ours.aggregation()) == set(theirs.aggregation())


def test_cloze_takes_the_last_word_or_a_target(jsonl: Jsonl) -> None:
    (entry,) = entries(["cloze"], {"cloze": jsonl(RECORDS["cloze"])})
    assert build(entry) == [("the cat sat on the", " mat"), ("one two", " three"), ("a\nlong  way", " down")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty: there is nothing to score"),
        (["", "  "], "is empty"),
        (['{"text": "a b"}', "{"], r":2: not JSON"),
        (['{"text": "a b"}', "", "[1]"], r":3: not a JSON object: \[1\]"),
        (['{"body": "a b"}'], r":1: no field 'text' \(has 'body'\)"),
        (['{"text": ""}'], r":1: 'text' must be a text that is not empty, not ''"),
        (['{"text": 5}'], r":1: 'text' must be a text"),
    ],
)
def test_malformed_files_are_named_with_their_line(lines: list[str], message: str, jsonl: Jsonl) -> None:
    with pytest.raises(MccError, match=message) as caught:
        entries(["lambada"], {"lambada": jsonl(lines)})
    assert "\n" not in caught.value.what


def test_more_malformed_files(jsonl: Jsonl, tmp_path: Path) -> None:
    with pytest.raises(MccError, match="no such task file"):
        entries(["piqa"], {"piqa": tmp_path / "none.jsonl"})
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps({"text": "caf\u00e9 au lait"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(MccError, match=r"latin.jsonl:1: not JSON"):
        entries(["lambada"], {"lambada": latin})
    label = {**RECORDS["piqa"][0], "label": 2}
    with pytest.raises(MccError, match=r":1: 'label' must be a number from 0 to 1, not 2"):
        entries(["piqa"], {"piqa": jsonl([label])})
    whole = {**RECORDS["winogrande"][0], "sentence": "no blank"}
    with pytest.raises(MccError, match=r":1: 'sentence' must have a blank"):
        entries(["winogrande"], {"winogrande": jsonl([whole])})
    with pytest.raises(MccError, match="has 3 documents: too few for 3 examples"):
        entries(["piqa"], {"piqa": jsonl(RECORDS["piqa"])}, num_fewshot=3)


def test_race_in_its_own_spelling(jsonl: Jsonl) -> None:
    """RACE's own files have columns for an article's questions, some copies of it a question a line."""
    columns = {"questions": "question", "options": "options", "answers": "answer"}
    own = {"article": "Ann has a cat.", **{many: [q[one] for q in _QUESTIONS] for many, one in columns.items()}}
    one = {"article": "It's late.", **_QUESTIONS[1]}
    ours = build(entries(["race"], {"race": jsonl([own, one])})[0])
    assert ours == build(entries(["race"], {"race": jsonl(RECORDS["race"][:2])})[0])
    with pytest.raises(MccError, match=r":1: 'questions', 'options' and 'answers' must be lists of one length"):
        entries(["race"], {"race": jsonl([{**own, "answers": ["A"]}])})
    with pytest.raises(MccError, match=r":1: 'options' must be five answers"):
        entries(["mathqa"], {"mathqa": jsonl([{**RECORDS["mathqa"][0], "options": "a ) 1 , b ) 2"}])})


DESCRIBED = """
data = "capitals.jsonl"
prompt = "{country}'s capital is"
choices = ["{right}", "{wrong}"]
answer = "label"
"""


def test_a_task_described_in_toml(jsonl: Jsonl, tmp_path: Path) -> None:
    records = [
        {"country": "Peru", "right": "Lima", "wrong": "Cusco", "label": "A", "all": ["Lima", "Cusco"]},
        {"country": "Mali", "right": "Bamako", "wrong": "Gao", "label": "Bamako", "all": ["Bamako", "Gao"]},
        {"country": "Chad", "right": "N'Djamena", "wrong": "Abéché", "label": 0, "all": ["x", "y"]},
    ]
    jsonl(records, "capitals.jsonl")
    file = tmp_path / "capitals.toml"
    file.write_text(DESCRIBED)
    (entry,) = entries(["capitals"], {"capitals": file}, 0)
    first = ("Peru's capital is", " Lima")
    assert build(entry) == [
        first,
        (first[0], " Cusco"),
        ("Mali's capital is", " Bamako"),
        ("Mali's capital is", " Gao"),
        ("Chad's capital is", " N'Djamena"),
        ("Chad's capital is", " Abéché"),
    ]
    (task,) = entry.loaded["tasks"].values()
    assert set(task.aggregation()) == {"acc", "acc_norm"}
    assert [task.doc_to_target(document) for document in task.test_docs()] == [0, 0, 0]
    jsonl([{**records[0], "all": ["x", "y"]}, {**records[0], "label": "Cuzco"}], "capitals.jsonl")
    file.write_text(DESCRIBED.replace('["{right}", "{wrong}"]', '"all"'))
    with pytest.raises(MccError, match=r"capitals.jsonl:2: 'label' must be a number from 0 to 1, a letter from A to B"):
        entries(["capitals"], {"capitals": file})
    file.write_text('data = "capitals.jsonl"\nprompt = "{country}:"\ntarget = " {right}"\nmetrics = ["acc"]')
    (entry,) = entries(["capitals"], {"capitals": file}, 0)
    assert build(entry)[0] == ("Peru:", " Lima")
    for text, message in (
        ("", "data must be a text"),
        (DESCRIBED + "x = 1", "unknown key 'x'"),
        (DESCRIBED + 'target = "y"', "both choices and target"),
        (DESCRIBED + 'metrics = ["bleu"]', "unknown metric 'bleu'"),
        (DESCRIBED.replace("{right}", "{left}"), r"capitals.jsonl:1: no field 'left'"),
    ):
        file.write_text(text)
        with pytest.raises(MccError, match=message):
            entries(["capitals"], {"capitals": file})


def test_numbers() -> None:
    assert [number_below(2)(value) for value in (0, "1")] == [0, 1]
    assert [number_below(2, first=1)(value) for value in (1, "2")] == [0, 1]
    for wrong in (2, -1, "x", None, True, 0.5, ""):
        with pytest.raises(ValueError, match="must be a number from 0 to 1"):
            number_below(2)(wrong)


def test_task_file_words(tmp_path: Path) -> None:
    file = tmp_path / "a=b.jsonl"
    file.write_text("")
    assert parse_task_files(["piqa"], [str(file)]) == {"piqa": file}
    assert parse_task_files(["piqa", "lambada"], [f"lambada={file}"]) == {"lambada": file}
    for names, words, message in (
        (["a", "b"], ["f"], "which of a, b"),
        (["a"], ["c=f"], "'c' is not among --tasks a"),
        (["a"], ["a=f", "g"], "gives a twice"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_task_files(names, words)


def test_unknown_tasks_suggest_the_nearest(jsonl: Jsonl) -> None:
    file = jsonl(RECORDS["piqa"])
    with pytest.raises(UsageError, match="unknown task 'piqqa'; did you mean 'piqa'"):
        entries(["piqqa"], {"piqqa": file})
    with pytest.raises(UsageError, match="no task is named"):
        entries([], {})
    with pytest.raises(UsageError, match="'piqa' is named twice"):
        entries(["piqa", "piqa"], {"piqa": file})


def test_names_of_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file a name is the harness's own; offline its data cannot be had, and ours say what to do.

    Of the harness's 15,000 files two folders are indexed.
    """
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent
    index = lm_eval.tasks.TaskManager(include_defaults=False, include_path=[folder / "lambada", folder / "piqa"])
    monkeypatch.setattr(catalogue, "_harness_index", lambda: index)
    with pytest.raises(UsageError, match="unknown task 'lambda_openai'; did you mean 'lambada_openai'") as caught:
        entries(["lambda_openai"], {})
    assert "online: any task" in str(caught.value.hint)
    with pytest.raises(UsageError, match="task 'cloze' needs a file"):
        entries(["cloze"], {})
    with pytest.raises(MccError, match="task piqa: its data could not be loaded") as failed:
        entries(["piqa"], {})
    assert failed.value.hint == "score a local copy: --task-file piqa=FILE"
