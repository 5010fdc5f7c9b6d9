"""Names that the site must hold: commands and methods."""

from __future__ import annotations

import click
from fewshot.cli.main import cli

from fewshot.registry import INCREMENTAL_METHODS, METHODS
from fewshot.registry.discovery import DISCOVERY_METHODS

__all__ = ["command_names", "commands", "method_names"]


def commands() -> dict[str, click.Command]:
    """Return every command by its name, such as ``train unem``."""
    context = click.Context(cli)
    found: dict[str, click.Command] = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": command.commands[sub] for sub in command.list_commands(context)}
        else:
            found[name] = command
    return found


def command_names() -> list[str]:
    """Return the names of the commands."""
    return list(commands())


def method_names() -> list[str]:
    """Return the names of the methods of all registries."""
    return [*METHODS, *INCREMENTAL_METHODS, *DISCOVERY_METHODS]
