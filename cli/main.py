"""The command ``fewshot``: where the commands hang together."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import click

from .group import CommandGroup
from .shared import output
from .shared.memory import keep_freed_memory
from .shared.signals import answering_signals

__all__ = ["cli", "main"]


def _print_version(context: click.Context, parameter: click.Parameter, is_asked: bool) -> None:
    if not is_asked:
        return
    import fewshot

    output.text(f"fewshot {fewshot.__version__}")
    context.exit()


@click.group(
    name="fewshot",
    cls=CommandGroup,
    # The same help at any width of the terminal.
    context_settings={"terminal_width": 100, "max_content_width": 100, "show_default": True},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    show_default=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Learn from few labels on frozen features.

    Results go to stdout (tables, or one JSON document with --json), progress and messages to stderr. Exit codes: 0
    done, 1 the data do not fit, 2 a wrong word on the command line, 130 interrupted, 128 + N ended by signal N.

    \b
    Example:
      fewshot episode --features digits --method nearest-prototype --method unem
    """  # noqa: D301 (click's own mark)


def main() -> None:
    """Run the command line: the entry point of the package."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show λ shows a question mark
    keep_freed_memory()
    with answering_signals():
        cli(prog_name="fewshot")


if __name__ == "__main__":
    main()
