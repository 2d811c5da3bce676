"""`--data-path 0.3 A 0.7 B`, as Megatron-LM takes it: options whose value is one word, or weights and words in turn."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from typing import Any

from typer.core import TyperCommand


class BlendCommand(TyperCommand):
    """A command whose options of token files take a blend."""

    options = ("--data-path", "--valid-data-path")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, join(args, self.options))


def join(args: Sequence[str], options: Collection[str]) -> list[str]:
    """`args` with a blend's words as the one value of its option.

    >>> join(["small.toml", "--data-path", "0.3", "A", "0.7", "B", "--tp", "2"], {"--data-path"})
    ['small.toml', '--data-path', '0.3 A 0.7 B', '--tp', '2']
    >>> join(["--data-path", "A", "small.toml"], {"--data-path"})
    ['--data-path', 'A', 'small.toml']
    """
    joined: list[str] = []
    i = 0
    while i < len(args):
        joined.append(args[i])
        i += 1
        if args[i - 1] not in options:
            continue
        start = i
        while i + 1 < len(args) and _is_number(args[i]) and not args[i + 1].startswith("--"):
            i += 2
        if i > start:
            joined.append(shlex.join(args[start:i]))
    return joined


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
