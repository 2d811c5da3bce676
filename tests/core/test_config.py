"""Configuration: defaults, then a TOML file, then flags; unknown keys and wrong types are refused with a clear line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from mcc.core.config import build, option, plain, read_toml, resolve, settings
from mcc.core.errors import MccError, UsageError


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = option(1e-4, "peak learning rate")
    betas: tuple[float, float] = option((0.9, 0.95))

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UsageError(f"lr = {self.lr} is not positive")


@dataclass(frozen=True, kw_only=True)
class Job:
    steps: int = option(100, "how many", metavar="N")
    name: str | None = None
    codec: Literal["none", "topk"] = "none"
    out: Path = Path("out")
    derived: int = dataclasses.field(default=0, init=False)
    optim: Optim = Optim()


def toml(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "job.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults_then_file_then_flags(tmp_path: Path) -> None:
    file = toml(tmp_path, 'steps = 5\nname = "from file"\n[optim]\nlr = 0.5\nbetas = [0.1, 0.2]\n')
    assert resolve(Job) == Job()
    assert resolve(Job, file) == Job(steps=5, name="from file", optim=Optim(lr=0.5, betas=(0.1, 0.2)))
    assert resolve(Job, file, {"optim.lr": 0.25, "steps": 6}) == Job(
        steps=6, name="from file", optim=Optim(lr=0.25, betas=(0.1, 0.2))
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepss = 1", "unknown key 'stepss'; did you mean 'steps'?"),
        ("[optim]\nlrr = 1", "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        ("zzz = 1", "unknown key 'zzz'"),
        ("derived = 1", "unknown key 'derived'"),
        ('steps = "many"', "steps: input should be a valid integer, unable to parse string as an integer, got 'many'"),
        ("steps = 1.5", "steps: "),
        ('codec = "topp"', "codec: input should be 'none' or 'topk', got 'topp'"),
        ("optim = 3", "optim: "),
        ("[optim]\nbetas = [1.0]", "optim.betas"),
        ("[optim]\nlr = -1.0", "lr = -1.0 is not positive"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Job, toml(tmp_path, text))
    assert message in caught.value.what
    assert "\n" not in caught.value.what


def test_unknown_keys_name_the_file_and_what_is_known(tmp_path: Path) -> None:
    file = toml(tmp_path, "stepss = 1")
    with pytest.raises(UsageError) as caught:
        resolve(Job, file)
    assert caught.value.what.startswith(f"{file}: ")
    assert caught.value.hint == "known: steps, name, codec, out, optim"


def test_unknown_flags_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown setting 'optim\.lrr'; did you mean 'optim\.lr'\?"):
        resolve(Job, None, {"optim.lrr": 1})
    with pytest.raises(UsageError, match=r"unknown setting 'optim'"):
        resolve(Job, None, {"optim": {"lr": 1}})


def test_what_is_not_toml_is_told_with_its_line(tmp_path: Path) -> None:
    file = toml(tmp_path, "steps = 1\nname = \n")
    with pytest.raises(UsageError, match=f"{file} is not TOML: .*line 2"):
        read_toml(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        read_toml(file)
    with pytest.raises(MccError, match="no such configuration file"):
        read_toml(tmp_path / "none.toml")


def test_plain_and_build_are_inverse() -> None:
    job = Job(steps=7, optim=Optim(lr=0.5))
    values = plain(job)
    assert values["optim"] == {"lr": 0.5, "betas": (0.9, 0.95)}
    del values["derived"]
    assert build(Job, values) == job


def test_settings_are_listed_in_order_with_their_paths() -> None:
    found = {setting.path: setting for setting in settings(Job)}
    assert list(found) == ["steps", "name", "codec", "out", "optim.lr", "optim.betas"]
    assert (found["steps"].help, found["steps"].default, found["steps"].metadata["metavar"]) == ("how many", 100, "N")
    assert (found["optim.lr"].name, found["optim.lr"].type) == ("lr", float)


@pytest.mark.parametrize("default", [[], {}])
def test_a_default_that_could_change_is_our_mistake(default: Any) -> None:
    with pytest.raises(TypeError, match="immutable"):
        option(default)
