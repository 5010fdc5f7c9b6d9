"""The page of commands: a line for each, then what sphinx-click writes of its options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import groupby

import click

from docs.extension.names import commands

__all__ = ["command_sections", "command_table", "with_defaults", "with_examples"]

_DEFAULT = re.compile(r"^( *:default: ``)'?(.*?)'?(``)$")


def command_table() -> str:
    """Return one row a command."""
    rows = [
        f"| [`fewshot {name}`](#{_anchor(name)}) | {command.get_short_help_str(100)} |"
        for name, command in commands().items()
    ]
    return "\n".join(["| command | |", "|---|---|", *rows])


def command_sections() -> str:
    """Return one section a command, with its help and its options."""
    for command in commands().values():
        for option in command.params:
            if isinstance(option, click.Option) and option.show_default is None:
                option.show_default = True  # as the group says when it runs
    return "\n\n".join(
        f"({_anchor(name)})=\n\n```{{eval-rst}}\n.. click:: {_path(command)}\n   :prog: fewshot {name}\n```"
        for name, command in commands().items()
    )


def with_examples(lines: Sequence[str]) -> Iterator[str]:
    """Yield a command's description with its preformatted blocks as such: sphinx-click gives them as line blocks."""
    for is_block, block in groupby(lines, key=lambda line: line.startswith("| ")):
        if not is_block:
            yield from (line.replace("*", r"\*") for line in block)
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


def with_defaults(lines: Sequence[str]) -> Iterator[str]:
    """Yield the options of a command with their defaults as they are given on the command line; none for a flag.

    Examples
    --------
    >>> list(with_defaults(["   :default: ``'auto'``", "   :default: ``False``", "   :default: ``5``"]))
    ['   :default: ``auto``', '   :default: ``5``']
    """
    for line in lines:
        found = _DEFAULT.match(line)
        if not found:
            yield line
        elif found[2] not in ("False", "True", ""):
            yield "".join(found.groups())


def _anchor(name: str) -> str:
    return f"command-{name.replace(' ', '-')}"


def _path(command: click.Command) -> str:
    """Return where a command is defined, as sphinx-click takes it."""
    assert command.callback is not None
    module = command.callback.__module__
    attribute = next(name for name, value in vars(import_module(module)).items() if value is command)
    return f"{module}:{attribute}"
