"""Errors as one line and an exit code: 1 bad data, 2 wrong words, 130 interrupted, 143 terminated."""

from __future__ import annotations

import keyword
from importlib import import_module
from typing import Any, NamedTuple

import click
from fewshot_episodes.errors import SettingError

from fewshot.checks import did_you_mean

from .shared import output
from .shared.signals import exit_code
from .shared.words import RENAMED_OPTIONS, current_words, option_name

__all__ = ["COMMANDS", "CommandGroup", "NearestGroup"]


class LazyCommand(NamedTuple):
    """A command that is imported when it is called.

    Attributes
    ----------
    module : str
        In which it stands, under this package.
    short_help : str
        Its line in the list of commands, which imports none of them.
    """

    module: str
    short_help: str


COMMANDS = {
    "classify": LazyCommand("classify.command", "Name your own images from a few labelled ones."),
    "extract": LazyCommand("features.extract", "Extract features from a folder of images."),
    "import": LazyCommand("features.import_", "Turn features of other programs into a file that every command reads."),
    "inspect": LazyCommand("features.inspect", "Say what features are and how they were made; draw them."),
    "probe": LazyCommand("probe.command", "Judge features by linear classifiers, neighbours and retrieval."),
    "episode": LazyCommand("episodic.episode", "Compare methods on few-shot episodes."),
    "report": LazyCommand("report.command", "Turn results into tables and a figure."),
    "train": LazyCommand("episodic.train", "Learn a method's numbers on some classes, for use on others."),
    "tune": LazyCommand("episodic.tune", "Choose a method's settings on validation classes."),
    "calibrate": LazyCommand("incremental.calibrate", "Compare how methods learn new classes and keep the old."),
    "discover": LazyCommand("discover.command", "Sort unlabelled rows into known classes and new ones."),
    "distill": LazyCommand("distill.command", "Learn features from unlabelled images."),
    "learn": LazyCommand("incremental.learn", "Add classes, or shots of known ones, to a model on disk."),
    "predict": LazyCommand("incremental.predict", "Name the class of each row by a model on disk."),
    "forget": LazyCommand("incremental.forget", "Take classes out of a model on disk."),
    "extractors": LazyCommand("features.extractors", "List the extractors, or say what is known of one."),
    "cache": LazyCommand("features.cache", "List or clear the compiled networks on this machine."),
    "methods": LazyCommand("episodic.methods", "List the methods."),
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
        lazy = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f".{lazy.module}", __package__), name)
        command.short_help = lazy.short_help
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.short_help) for name, lazy in COMMANDS.items()])

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
