"""Flags from a configuration dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from mcc.cli.options import flags
from mcc.core.config import option, resolve


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = option(1e-5, "peak learning rate [per step]")
    betas: tuple[float, float] = option((0.9, 0.95), "Adam's decay rates")
    fused: bool = option(True, "one kernel a step")


@dataclass(frozen=True, kw_only=True)
class Job:
    hidden_size: int = option(64, "width D")
    data: Path = option(help="binarised data")
    compress: tuple[str, ...] = option((), "SITE=CODEC", metavar="SITE=CODEC")
    limit: int | None = option(None, "stop here")
    dtype: Literal["fp32", "bf16"] = option("fp32", "of the model")
    inner: int = option(3, "not for the command line", flag="")
    optim: Optim = Optim()


def command(**options: Any) -> tuple[typer.Typer, list[dict[str, Any]]]:
    """An app with `Job`'s flags, and the list that receives each call's settings."""
    app, calls = typer.Typer(add_completion=False, rich_markup_mode="rich"), []

    @app.command()
    @flags(Job, **options)
    def job(
        file: Annotated[Path | None, typer.Argument()] = None,
        *,
        settings: dict[str, Any],
        as_json: Annotated[bool, typer.Option("--json")] = False,
    ) -> None:
        """Do it."""
        calls.append({"file": file, "json": as_json, **settings})

    return app, calls


def call(words: str, **options: Any) -> dict[str, Any]:
    app, calls = command(**options)
    done = CliRunner().invoke(app, words.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return calls[0]


def test_only_what_the_user_gave_is_handed_over() -> None:
    assert call("") == {"file": None, "json": False}
    assert call("job.toml --json --hidden-size 64") == {"file": Path("job.toml"), "json": True, "hidden_size": 64}


def test_every_type_comes_back_as_the_dataclass_wants_it() -> None:
    given = call(
        "--data d --compress a=b --compress c=d --limit 4 --dtype bf16"
        " --lr 0.5 --betas 0.1 0.2 --no-fused --hidden-size 8"
    )
    assert given["compress"] == ("a=b", "c=d"), "a configuration is immutable"
    settings = {key: value for key, value in given.items() if key not in ("file", "json")}
    assert resolve(Job, None, settings) == Job(
        hidden_size=8,
        data=Path("d"),
        compress=("a=b", "c=d"),
        limit=4,
        dtype="bf16",
        optim=Optim(lr=0.5, betas=(0.1, 0.2), fused=False),
    )


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('data = "d"\nhidden_size = 16\n[optim]\nlr = 0.25\n')
    assert resolve(Job, file, {"hidden_size": 32}) == Job(data=Path("d"), hidden_size=32, optim=Optim(lr=0.25))


def test_aliases_are_further_names() -> None:
    for flag in ("--hidden-size", "--width", "-w"):
        assert call(f"{flag} 5", aliases={"hidden_size": ("--width", "-w")})["hidden_size"] == 5


def test_help_has_defaults_panels_placeholders_and_literal_brackets() -> None:
    app, _ = command()
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120", "NO_COLOR": "1"}).stdout
    for text in (
        "peak learning rate [per step]",
        "[default: 1e-05]",
        "─ Optim ─",
        "SITE=CODEC",
        "--no-fused",
        "fp32|bf16",
    ):
        assert text in shown, f"{text!r} is not in\n{shown}"
    assert "--inner" not in shown


@pytest.mark.parametrize("skip", [("optim",), ("optim.lr", "optim.betas", "optim.fused")])
def test_skipped_settings_get_no_flag(skip: tuple[str, ...]) -> None:
    app, _ = command(skip=skip)
    assert CliRunner().invoke(app, ["--lr", "1"]).exit_code == 2
    assert call("--limit 1", skip=skip)["limit"] == 1


def test_a_wrong_choice_is_refused() -> None:
    app, _ = command()
    assert CliRunner().invoke(app, ["--dtype", "fp8"]).exit_code == 2


def test_a_context_of_the_command_is_kept() -> None:
    app, seen = typer.Typer(), []

    @app.command()
    @flags(Optim)
    def job(ctx: typer.Context, settings: dict[str, Any]) -> None:
        seen.append((ctx.info_name, settings))

    CliRunner().invoke(app, ["--lr", "2"], catch_exceptions=False)
    assert seen == [("job", {"lr": 2.0})]


def test_two_settings_of_one_flag_are_our_mistake() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Twice:
        lr: float = 0.0
        optim: Optim = Optim()

    with pytest.raises(TypeError, match=r"--lr is wanted by both lr and optim\.lr"):
        flags(Twice)(lambda settings: None)
    with pytest.raises(TypeError, match="--json is wanted by both as_json and json"):

        @dataclass(frozen=True, kw_only=True)
        class Json:
            json: bool = False

        @flags(Json)
        def job(settings: dict[str, Any], as_json: Annotated[bool, typer.Option("--json")] = False) -> None: ...


def test_what_has_no_flag_form_or_does_not_exist_is_our_mistake() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd:
        either: int | str = 0

    with pytest.raises(TypeError, match="either: no flag form"):
        flags(Odd)(lambda settings: None)
    with pytest.raises(TypeError, match="no setting 'eitherr'"):
        flags(Odd, skip=("eitherr",))
    with pytest.raises(TypeError, match="needs a keyword 'settings'"):
        flags(Optim)(lambda: None)
