"""The executors of datatrove give what one process gives, byte for byte, and go on after a failure."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from mcc.core.errors import MccError, UsageError
from mcc.data.pipeline import ClusterConfig, Pipeline, load
from mcc.data.pipelines.run import run_pipeline
from tests.data.conftest import Write
from tests.data.pipelines.test_pipeline import text

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'mcc[cluster]'")
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'mcc[cluster]'"
)

from mcc.data.pipelines.cluster import make_runner  # noqa: E402

ROOT = Path(__file__).parents[3]
# Python in place of Slurm: jobs run at once, in the order of their array, with the variables that Slurm gives.
SBATCH = """#!{python}
import os, re, subprocess, sys
folder = {folder!r}
script = open(sys.argv[-1]).read()
number = len([name for name in os.listdir(folder) if name.startswith("job-")]) + 1
open(f"{{folder}}/job-{{number}}", "w").write(" ".join(sys.argv[1:-1]) + "\\n" + script)
print("Submitted batch job", number)
needed = re.search(r"--dependency=afterok:(\\d+)", " ".join(sys.argv))
if needed and os.path.exists(f"{{folder}}/broken-{{needed[1]}}"):
    open(f"{{folder}}/broken-{{number}}", "w")
    sys.exit()
first, last = map(int, re.search(r"#SBATCH --array=(\\d+)-(\\d+)", script).groups())
log = open(f"{{folder}}/log-{{number}}", "w")
for task in range(first, last + 1):
    environment = {{**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "localhost", "RUN_OFFSET": "0"}}
    if subprocess.run(["bash"], input=script, text=True, env=environment, stdout=log, stderr=log).returncode:
        open(f"{{folder}}/broken-{{number}}", "w")
"""
OTHERS = {
    "srun": '#!/bin/bash\nwhile [[ "$1" == -* ]]; do [[ "$1" == -n ]] && shift; shift; done\nexec "$@"\n',
    "scontrol": "#!/bin/bash\necho localhost\n",
    "squeue": "#!/bin/bash\n",
    "scancel": "#!/bin/bash\n",
}


def script(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands in place of Slurm's, first on PATH; it keeps the scripts that were sent off."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    script(folder / "sbatch", SBATCH.format(python=sys.executable, folder=str(folder)))
    for name, content in OTHERS.items():
        script(folder / name, content)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


@pytest.fixture
def file(tmp_path: Path, jsonl: Write, tokenizer: Path) -> Path:
    """Duplicates far from each other, in two files of many blocks."""
    records = [{"id": i, "text": text(i % 50)} for i in range(90)]
    inputs = [str(jsonl("a.jsonl", records[:70])), str(jsonl("b.jsonl", records[70:]))]
    path = tmp_path / "pipe.toml"
    path.write_text(
        f"""
[read]
block_bytes = 2000

[cluster]
poll_s = 0.05
mem_per_cpu_gb = 0.25

[report]
languages = 5
tokenizer = "{tokenizer}"

[[step]]
step = "clean"
input = {json.dumps(inputs)}
filters = ["whitespace", "min-chars"]
options.min-chars.chars = 230

[[step]]
step = "dedup"

[[step]]
step = "preprocess"
tokenizer = "{tokenizer}"
"""
    )
    return path


@pytest.fixture
def short(file: Path) -> Path:
    """The first two steps: every shard is a process that takes a second to begin."""
    toml = file.read_text().replace("languages = 5", "measure = false")
    file.write_text(toml[: toml.index('[[step]]\nstep = "preprocess"')])
    return file


def produced(pipeline: Pipeline) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in pipeline.folder.iterdir() if path.is_file() and path.name[0] == "0"
    }


def run_with(executor: str, pipeline: Pipeline, tasks: int = 3, workers: int = 2) -> Any:
    runner = make_runner(executor, pipeline.cluster, workers, tasks)
    try:
        return run_pipeline(pipeline, runner)
    finally:
        runner.close()


def equal_to_one_process(executor: str, file: Path, folder: Path, tasks: int = 3) -> None:
    # The same folder name: rejects tell the place of a document with its path.
    one, many = load(file, folder / "one"), load(file, folder / "many")
    wanted = run_pipeline(one)
    found = run_with(executor, many, tasks)
    assert wanted.steps[1].report["removed"] > 10
    for step, other in zip(wanted.steps, found.steps, strict=True):
        for key in ("documents_in", "documents_out", "rejected"):
            assert step.report[key] == other.report[key]
        assert step.profile == other.profile
    assert produced(many) == produced(one)
    assert not list(many.folder.glob(".*.work"))


@pytest.mark.parametrize("tasks", [1, 3])
def test_local_equals_one_process(file: Path, tmp_path: Path, tasks: int) -> None:
    equal_to_one_process("local", file, tmp_path, tasks)


@needs_ray
def test_ray_equals_one_process(short: Path, tmp_path: Path) -> None:
    equal_to_one_process("ray", short, tmp_path)
    import ray

    assert not ray.is_initialized()


def test_slurm_equals_one_process(short: Path, tmp_path: Path, slurm: Path) -> None:
    equal_to_one_process("slurm", short, tmp_path, 2)


def test_slurm_scripts(short: Path, tmp_path: Path, slurm: Path) -> None:
    toml = short.read_text().replace(
        "poll_s = 0.05", 'poll_s = 0.05\npartition = "cpu"\ntime = "1:00:00"\nsbatch_args = {account = "me"}'
    )
    short.write_text(toml[: toml.index('[[step]]\nstep = "dedup"')])
    run_with("slurm", load(short, tmp_path / "out"), tasks=2, workers=1)
    first, second = ((slurm / f"job-{number}").read_text() for number in (1, 2))
    for line in (
        "--partition=cpu", "--time=1:00:00", "--account=me", "--array=0-1%1", "--mem-per-cpu=256M", "--cpus-per-task=1",
        "--kill-on-invalid-dep=yes", f"--chdir={Path.cwd()}",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in first
    assert "--dependency" not in first and "--dependency=afterok:1" in second and "--array=0-0" in second
    assert f"export PATH={Path(sys.executable).parent}:$PATH" in first
    assert "launch_pickled_pipeline" in first and "#SBATCH --qos" not in first


BAD = b'{"text": "cut\n'


@pytest.mark.parametrize("executor", ["local", "slurm", pytest.param("ray", marks=needs_ray)])
def test_a_failed_shard_ends_the_run_and_the_others_are_kept(
    executor: str, short: Path, tmp_path: Path, slurm: Path
) -> None:
    toml = short.read_text().replace("[read]\n", '[read]\non_error = "fail"\n')
    file = tmp_path / "fail.toml"
    file.write_text(toml[: toml.index('[[step]]\nstep = "dedup"')])
    broken = tmp_path / "b.jsonl"
    good = broken.read_bytes()
    state = broken.stat()
    # The same size and times: the command that follows is the same one.
    broken.write_bytes(good[: -len(BAD)] + BAD)
    os.utime(broken, ns=(state.st_atime_ns, state.st_mtime_ns))
    pipeline = load(file, tmp_path / "many")
    with pytest.raises(MccError, match=rf"step 1 \(clean\): shard 2 of 3: {broken}:20: not JSON"):
        run_with(executor, pipeline)
    work = pipeline.folder / ".01-clean.jsonl.zst.work"
    done = work / "clean" / "00000" / "journal"
    before = done.stat().st_mtime_ns
    assert not (pipeline.folder / "01-clean.jsonl.zst").exists() and '"end": true' in done.read_text()
    broken.write_bytes(good)
    os.utime(broken, ns=(state.st_atime_ns, state.st_mtime_ns))
    seen: list[int] = []
    runner = make_runner(executor, pipeline.cluster, 2, 3)
    try:
        make_and_run = runner.execute

        def execute(phases: Any, reporter: Any) -> None:
            make_and_run(phases, reporter)
            if done.exists():
                seen.append(done.stat().st_mtime_ns)

        runner.execute = execute  # type: ignore[method-assign]
        run_pipeline(pipeline, runner)
    finally:
        runner.close()
    assert seen[0] == before  # what was done is not done again
    one = load(file, tmp_path / "one")
    run_pipeline(one)
    assert produced(pipeline) == produced(one)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcc.data.pipelines.cluster.find_spec", lambda name: None)
    for executor, named in (("local", "package datatrove"), ("ray", "packages datatrove and ray")):
        with pytest.raises(MccError, match=f"--executor {executor} needs the {named}") as caught:
            make_runner(executor, ClusterConfig())
        assert "pip install 'mcc[cluster]'" in str(caught.value.hint)


def test_slurm_needs_a_number_of_shards_and_its_commands(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="number of shards"):
        make_runner("slurm", ClusterConfig())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MccError, match="no sbatch on this machine"):
        run_with("slurm", load(file, tmp_path / "out"))
