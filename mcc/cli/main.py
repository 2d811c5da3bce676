"""The `mcc` command: one table of subcommands, each loaded when it is called, and the one place that prints errors."""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import mcc
from mcc.core.errors import MccError, UsageError, nearest, unknown

# Each name is a module `mcc.cli.<name>` with `app: typer.Typer`. The help stands here, so that `mcc --help` loads none.
COMMANDS = {
    "data": "Read, clean, deduplicate, decontaminate, tokenize and binarise text.",
    "ckpt": "Merge, split, convert and inspect checkpoints.",
    "train": "Train a model, 3D-parallel, with compressed communication.",
    "eval": "Score checkpoints: zero-shot tasks, perplexity.",
    "bench": "Measure this machine and this code.",
    "quickstart": "The whole job on real text: raw text in, scored checkpoint out.",
    "doctor": "Show what this machine has and what it enables.",
}

# Typer carries its own copy of click from 0.2x on; this is ClickException in either.
_ClickError: type[Any] = typer.BadParameter.__mro__[2]


class _Interrupted(MccError):
    exit_code = 130


class _House(TyperGroup):
    """The root: it knows its subcommands by name and help alone, and loads one when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name = args[0]
        if name in COMMANDS:
            return name, load(name), args[1:]
        if ctx.resilient_parsing:  # shell completion of a half-typed name
            return None, None, args[1:]
        raise unknown("command", name, COMMANDS)

    def invoke(self, ctx: Any) -> None:
        # Inside, because click's main turns an interruption into a silent exit and hides a closed pipe.
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            raise _Interrupted("interrupted") from None
        except BrokenPipeError:
            if not _stdout_is_closed():
                raise MccError("a connection or a pipe to another process broke", "see the messages above") from None
            raise typer.Exit(1) from None


app = typer.Typer(name="mcc", cls=_House, help=mcc.__doc__, pretty_exceptions_enable=False, rich_markup_mode="rich")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mcc {mcc.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    # Taken off the line before parsing, so that it may stand anywhere; it is here for the help.
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors; accepted anywhere.")] = False,
) -> None:
    pass


def _stand_in() -> None:
    raise AssertionError("resolve_command puts the real command here")


for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(_stand_in)


def load(name: str) -> Any:
    """The click command called `name`, from its module."""
    command = typer.main.get_command(import_module(f"mcc.cli.{name}").app)
    # Typer adds the completion options to every app; only the root's make sense.
    command.params = [param for param in command.params if param.name not in ("install_completion", "show_completion")]
    return command


def run() -> None:
    """The entry point `mcc`: run the command line and leave the process with its exit code."""
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _stdout_is_closed()
    sys.exit(code)


def main(args: Sequence[str]) -> int:
    """Run `mcc` with `args`; every error is printed here.

    Returns:
        0 when all is well, 2 for a wrong command line or configuration, 130 when interrupted, 1 for any other failure.
    """
    words, debug = _without_debug(args)
    try:
        command = typer.main.get_command(app)
        code = command.main(words or ["--help"], prog_name="mcc", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        return _print_error(error)


def _without_debug(args: Sequence[str]) -> tuple[list[str], bool]:
    end = args.index("--") if "--" in args else len(args)
    words = [word for word in args[:end] if word != "--debug"]
    return [*words, *args[end:]], len(words) < end


def _print_error(error: Exception) -> int:
    shown = _explained(error)
    if shown.what:
        print(f"error: {shown.what}", file=sys.stderr)
    if shown.hint:
        print(f"hint: {shown.hint}", file=sys.stderr)
    return shown.exit_code


def _explained(error: Exception) -> MccError:
    if isinstance(error, MccError):
        return error
    if isinstance(error, _ClickError):
        return _usage(error)
    if isinstance(error, typer.Abort):
        return MccError("aborted")
    debug = "run again with --debug for the traceback"
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return MccError(f"{error.strerror[:1].lower()}{error.strerror[1:]}{where}", debug)
    # Long messages (torch's) say the most in their first line; the rest comes with the traceback.
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return MccError(f"{type(error).__name__}: {first}".rstrip(": "), debug)


def _usage(error: Any) -> MccError:
    """Click's error in our form: `no such option: --foo; did you mean --food?`."""
    kind, message, context = type(error).__name__, error.format_message(), getattr(error, "ctx", None)
    if kind == "NoArgsIsHelpError":  # the message is the help; where rich draws it, it is drawn already and empty here
        print(message, end="\n" if message else "")
        return UsageError("")
    path = context.command_path.split() if context else ["mcc"]  # a hidden command leaves a blank
    hint = f"see {' '.join(path)} --help"
    if context is None:
        return UsageError(_as_clause(message), hint)
    if kind == "NoSuchOption":
        close = nearest(error.option_name, _flags(context))
        return UsageError(f"no such option: {error.option_name}" + (f"; did you mean {close}?" if close else ""), hint)
    if subcommand := re.match(r"No such command '(.*?)'", message):
        return unknown("command", subcommand[1], context.command.list_commands(context))
    if message.startswith("Missing command"):
        return UsageError("missing command", f"one of: {', '.join(context.command.list_commands(context))}")
    return UsageError(_as_clause(message), hint)


def _flags(context: Any) -> list[str]:
    params = context.command.get_params(context)
    return [flag for param in params for flag in (*param.opts, *param.secondary_opts) if flag.startswith("-")]


def _as_clause(sentence: str) -> str:
    line = " ".join(sentence.split()).replace(": Value error, ", ": ").rstrip(".")
    return line[:1].lower() + line[1:]


def _stdout_is_closed() -> bool:
    """Whether the reader of our stdout is gone (`mcc ... | head`); if so, nothing more is written to it."""
    try:
        number = sys.stdout.fileno()
    except OSError:  # a test's stdout
        return False
    watch = select.poll()
    watch.register(number, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0)):
        return False
    # Python flushes stdout once more when it leaves, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return True
