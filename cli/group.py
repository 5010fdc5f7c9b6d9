"""Errors as one line and an exit code: 1 bad data, 2 wrong words, 130 interrupted, 143 terminated."""

from __future__ import annotations

import keyword
from importlib import import_module
from typing import Any

import click
from fewshot_episodes.errors import SettingError

from fewshot.checks import did_you_mean

from .shared import output
from .shared.signals import exit_code
from .shared.words import RENAMED_OPTIONS, current_words, option_name

__all__ = ["COMMANDS", "CommandGroup", "NearestGroup"]

# The module in which each command stands, under this package.
COMMANDS = {
    "classify": "classify.command",
    "extract": "features.extract",
    "import": "features.import_",
    "inspect": "features.inspect",
    "probe": "probe.command",
    "episode": "episodic.episode",
    "report": "report.command",
    "train": "episodic.train",
    "tune": "episodic.tune",
    "calibrate": "incremental.calibrate",
    "discover": "discover.command",
    "distill": "distill.command",
    "learn": "incremental.learn",
    "predict": "incremental.predict",
    "forget": "incremental.forget",
    "extractors": "features.extractors",
    "cache": "features.cache",
    "methods": "episodic.methods",
}


class NearestGroup(click.Group):
    """Answers an unknown command with the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command."""
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            hint = did_you_mean(args[0], known)
            raise click.UsageError(f"unknown command {args[0]!r}{hint} Known: {', '.join(known)}", ctx)
        return super().resolve_command(ctx, args)


class CommandGroup(NearestGroup):
    """Finds a command in the file of its name, and turns exceptions into messages.

    A command's file is imported when the command is called: the first Ctrl-C, during the import of torch, is then
    answered as every other.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(import_module(f".{COMMANDS[cmd_name]}", __package__), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, and warn of deprecated words."""
        name, command, rest = super().resolve_command(ctx, args)
        rest, notes = current_words(rest, RENAMED_OPTIONS.get(name or "", {}))
        for note in notes:
            output.message(f"Warning: {note}")
        return name, command, rest

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words as they were given, for the JSON document."""
        ctx.meta["command"] = ["fewshot", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            output.message(str(interrupt) or "Interrupted")
            ctx.exit(exit_code())
        except BrokenPipeError:
            raise  # click leaves quietly
        except SettingError as error:
            raise click.ClickException(_one_line(error.worded(option_name))) from error
        except (ValueError, TypeError, OSError, ImportError) as error:
            raise click.ClickException(_one_line(error)) from error
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise click.ClickException(
                f"out of memory: lower --batch-size or --n-episodes ({_one_line(error)})"
            ) from error


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
