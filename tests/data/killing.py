"""Runs a step again and again, killed at another moment each time, and to the end at last. One process a step.

    python -m tests.data.killing STEP FOLDER DATA

The moments are those at which a journal is written and an output gets its name, before and after. Prints a line of
JSON: how many moments there are, and at which of them the result differed from an undisturbed run's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from mcc.data.base import job as jobs
from mcc.data.base.records import ReadConfig
from mcc.data.base.shard_files import ShardFiles
from mcc.data.base.work import Work

READ = ReadConfig(block_bytes=4000)
# Of many moments so many are tried.
_TRIED = 6

_SLOW_IMPORTS = {"dedup": ("datasketch",), "clean": ("ftfy",), "ids": ("pyarrow.parquet",)}

Run = Callable[[list[Path], Path], Any]


STEPS = ("clean", "concat", "decontaminate", "dedup", "holdout", "ids", "preprocess", "shuffle", "urls", "wiki")


def step(name: str, data: Path) -> Run:
    """The step as a function (inputs, folder for the outputs)."""
    if name == "clean":
        from mcc.data.filtering import CleanConfig, clean

        filters = ("ftfy", "whitespace", "min-chars")
        return lambda i, o: clean(i, o / "out.jsonl.gz", CleanConfig(filters=filters, read=READ))
    if name == "decontaminate":
        from mcc.data.decontaminate import DecontaminateConfig, TaskFile, decontaminate

        tasks = (TaskFile(name="lambada", path=str(data / "task.jsonl")),)
        return lambda i, o: decontaminate(i, o / "out.jsonl.zst", DecontaminateConfig(tasks=tasks, read=READ))
    if name == "dedup":
        from mcc.data.dedup import DedupConfig, dedup

        return lambda i, o: dedup(i, o / "out.jsonl", DedupConfig(read=READ), duplicates=o / "dup.jsonl")
    if name == "concat":
        from mcc.data.concat import ConcatConfig, concat

        return lambda i, o: concat(i, o / "out.jsonl.bz2", ConcatConfig(read=READ))
    if name == "urls":
        from mcc.data.urls import UrlsConfig, urls

        config = UrlsConfig(key="text", malformed=False, min_chars=0, read=READ)
        return lambda i, o: urls(i, o / "out.jsonl.gz", config)
    if name == "ids":
        from mcc.data.ids import IdsConfig, ids

        return lambda i, o: ids(i, o / "out.parquet", IdsConfig(read=READ))
    if name == "wiki":
        from mcc.data.wiki import WikiConfig, wiki

        return lambda i, o: wiki([data / "dump.xml.bz2"], o / "out.jsonl.gz", WikiConfig(read=READ))
    if name == "holdout":
        from mcc.data.holdout import HoldOutConfig, hold_out

        return lambda i, o: hold_out(i, o / "out.jsonl", o / "held.jsonl", HoldOutConfig(read=READ))
    if name == "preprocess":
        from mcc.data.preprocess import PreprocessConfig, preprocess

        return lambda i, o: preprocess(i, o / "out", data / "tokenizer.json", PreprocessConfig(read=READ))
    from mcc.data.shuffle import ShuffleConfig, shuffle

    return lambda i, o: shuffle(i, o / "out.jsonl", ShuffleConfig(read=READ, bucket_bytes=20_000))


class Killer:
    """Ends this process at the `at`-th moment."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.moments = 0
        for place, name in ((ShardFiles, "add"), (ShardFiles, "_note"), (Work, "set_done")):
            setattr(place, name, self._around(getattr(place, name)))
        jobs.publish = self._around(jobs.publish)

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def around(*args: Any, **kwargs: Any) -> Any:
            self._moment()
            result = function(*args, **kwargs)
            self._moment()
            return result

        return around

    def _moment(self) -> None:
        if self.moments == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.moments += 1


def in_child(run: Run, inputs: list[Path], folder: Path, at: int | None) -> int:
    """How many moments passed, by way of a file; negative when it was killed."""
    told = folder.with_name("moments")
    told.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            killer = Killer(at)
            run(inputs, folder)
            told.write_text(str(killer.moments))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return -1
    if status:
        raise SystemExit("the step failed")
    return int(told.read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def main(name: str, folder: Path, data: Path) -> None:
    run = step(name, data)
    for module in _SLOW_IMPORTS.get(name, ()):  # once, not in every child
        import_module(module)
    inputs = [data / "a.jsonl", data / "b.jsonl"]
    whole = folder / "whole"
    whole.mkdir()
    moments = in_child(run, inputs, whole, None)
    expected = contents(whole)
    wrong = []
    for at in sorted({moments * i // _TRIED for i in range(_TRIED)} | {moments - 1, moments - 2, moments - 3}):
        killed = folder / "killed"
        shutil.rmtree(killed, ignore_errors=True)
        killed.mkdir()
        assert in_child(run, inputs, killed, at) == -1
        partial = [path for path in contents(killed) if not path.startswith(".")]
        again = in_child(run, inputs, killed, None)
        # What has a name is whole; the rest was not all done again; the result is the same.
        whole_files = all(expected.get(path) == (killed / path).read_bytes() for path in partial)
        if not whole_files or contents(killed) != expected or (at > moments * 3 // 4 and again >= moments):
            wrong.append(at)
    print(json.dumps({"moments": moments, "wrong": wrong, "files": sorted(expected)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
