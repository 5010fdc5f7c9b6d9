"""The page of commands: a line for each, then what sphinx-click writes of its options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import groupby

import click

from docs.extension.names import commands

__all__ = ["command_sections", "command_table", "with_examples"]


def command_table() -> str:
    """Return one row a command."""
    rows = [
        f"| [`fewshot {name}`](#{_anchor(name)}) | {command.get_short_help_str(100)} |"
        for name, command in commands().items()
    ]
    return "\n".join(["| command | |", "|---|---|", *rows])


def command_sections() -> str:
    """Return one section a command, with its help and its options."""
    return "\n\n".join(
        f"({_anchor(name)})=\n\n```{{click}} {_path(command)}\n:prog: fewshot {name}\n```"
        for name, command in commands().items()
    )


def with_examples(lines: Sequence[str]) -> Iterator[str]:
    """Yield a command's description with its preformatted blocks as such: sphinx-click gives them as line blocks."""
    for is_block, block in groupby(lines, key=lambda line: line.startswith("| ")):
        if not is_block:
            yield from block
            continue
        first, *rest = (line[2:] for line in block)
        if first == "Example:":
            yield from (
                "",
                ".. rubric:: Example",
                "",
                ".. code-block:: console",
                "",
                *(f"   $ {line.strip()}" for line in rest),
                "",
            )
        else:
            yield from ("", "::", "", *(f"   {line}" for line in (first, *rest)), "")


def _anchor(name: str) -> str:
    return f"command-{name.replace(' ', '-')}"


def _path(command: click.Command) -> str:
    """Return where a command is defined, as sphinx-click takes it."""
    assert command.callback is not None
    module = command.callback.__module__
    attribute = next(name for name, value in vars(import_module(module)).items() if value is command)
    return f"{module}:{attribute}"
