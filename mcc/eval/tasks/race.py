"""RACE: questions about an article (Lai et al. 2017, arXiv 1704.04683), the harness's way.

The last question of an article is scored; those before it stand in the prompt with their answers.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, ClassVar

from mcc.eval.task import Check, Record, Task, text

_LETTERS = "ABCD"
# So a sentence ends in a question that asks for its end.
_GAP = "  _  ."


def _problems(value: Any) -> list[dict[str, Any]]:
    """Questions with their options and the letter of the right one; a text of Python's notation, or a list."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = None
    wanted = {"question": str, "options": list, "answer": str}
    if not isinstance(value, list) or not value or not all(isinstance(problem, dict) for problem in value):
        raise ValueError("must be a list of questions")
    for problem in value:
        if not all(isinstance(problem.get(name), kind) for name, kind in wanted.items()):
            raise ValueError("must have question, options and answer in each question")
        if len(problem["options"]) != len(_LETTERS) or problem["answer"] not in tuple(_LETTERS):
            raise ValueError("must have four options in each question, and an answer from A to D")
    return [{name: problem[name] for name in wanted} for problem in value]


class Race(Task):
    """Which of four options answers a question about an article. Fields: article, problems (question, options, answer:
    A to D); or RACE's own questions, options, answers; or one question, options, answer a line."""

    fields: ClassVar[Mapping[str, Check]] = {"article": text, "problems": _problems}

    def read(self, record: Record) -> dict[str, Any]:
        """The document of one record, in whichever of the three spellings."""
        names = {"questions": "answers", "question": "answer"}
        many = next((name for name in names if "problems" not in record and name in record), None)
        if many is not None:
            columns = [record[many], record.get("options"), record.get(names[many])]
            if many == "question":
                columns = [[column] for column in columns]
            if not all(isinstance(column, list) for column in columns) or len(set(map(len, columns))) != 1:
                raise ValueError(f"{many!r}, 'options' and {names[many]!r} must be lists of one length")
            keys = ("question", "options", "answer")
            problems = [dict(zip(keys, problem, strict=True)) for problem in zip(*columns, strict=True)]
            record = {**record, "problems": problems}
        return super().read(record)

    def prompt(self, document: Record) -> str:
        """The article, the questions before the last one with their answers, and the last one."""
        *before, last = document["problems"]
        lines = [f"Article: {document['article']}\n\n"]
        for problem in before:
            question, answer = problem["question"], problem["options"][_LETTERS.index(problem["answer"])]
            if question.endswith(_GAP):
                lines.append(f"{question[:-5]}{answer}\n")
            else:
                lines.append(f"Question: {question}\nAnswer: {answer}\n")
        return "".join(lines) + str(last["question"])

    def target(self, document: Record) -> Any:
        """Number of the right option."""
        return _LETTERS.index(document["problems"][-1]["answer"])

    def choices(self, document: Record) -> list[str]:
        """The options."""
        return list(document["problems"][-1]["options"])
