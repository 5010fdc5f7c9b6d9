"""The only file that writes to the screen: results to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import click
import rich.progress
from rich.box import SIMPLE
from rich.console import Console, RenderableType

__all__ = ["BOX", "Progress", "gathered_warnings", "json_text", "message", "publish", "show", "text"]

# The frame of every table.
BOX = SIMPLE
# A table takes the width that it needs where there is no screen to fit it to.
_UNLIMITED = 10_000


def text(line: str) -> None:
    """Write a line to stdout."""
    click.echo(line)


def message(line: str) -> None:
    """Write a line to stderr."""
    click.echo(line, err=True)


def show(*parts: RenderableType) -> None:
    """Write tables and lines to stdout, all at once: a closed pipe or an interrupt leaves all or nothing."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(width=None if is_terminal else _UNLIMITED, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    click.echo("\n".join(line.rstrip() for line in captured.get().strip("\n").split("\n")))


def publish(document: dict[str, Any], parts: Sequence[RenderableType], *, is_json: bool) -> None:
    """Write a command's result to stdout, and its document's ``warnings`` to stderr."""
    if is_json:
        text(json_text(document))
    else:
        show(*parts)
    for warning in document["warnings"]:
        message(f"Warning: {warning}")


def json_text(document: dict[str, object]) -> str:
    """Return a document as JSON; NaN and infinities become null.

    Examples
    --------
    >>> print(json_text({"half_width": float("nan")}))
    {
      "half_width": null
    }
    """
    return json.dumps(_without_nan(document), indent=2, allow_nan=False)


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def gathered_warnings() -> Iterator[list[str]]:
    """Collect Python's warnings as texts, each once; the list is filled at the end."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        yield found
    found.extend(dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught))


@dataclass
class _Stage:
    unit: str
    label: str
    total: int
    n_done: int = 0
    result: str = ""

    def __str__(self) -> str:
        label, result = f" ({self.label})" if self.label else "", f": {self.result}" if self.result else ""
        return f"{self.n_done:,} of {self.total:,} {self.unit}{label}{result}"


class Progress:
    """A bar on stderr while stderr is a terminal, and the progress that an interrupt reports.

    Parameters
    ----------
    unit : str
        What is counted: "episodes".
    is_quiet : bool
        Show no bar.
    remark : str
        Added to what an interrupt says.

    Raises
    ------
    KeyboardInterrupt
        In place of a bare one, with the sentence for the user.
    """

    def __init__(self, unit: str, *, is_quiet: bool, remark: str = "") -> None:
        self._unit, self._remark = unit, remark
        self._stages: list[_Stage] = []
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[result]}", markup=False),
            rich.progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=is_quiet or sys.stderr is None or not sys.stderr.isatty(),
        )

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
        if kind is KeyboardInterrupt:
            raise KeyboardInterrupt(self._sentence()) from None

    def stage(self, label: str, total: int) -> Progress:
        """Begin a stage unless it is the one that runs."""
        if not self._stages or self._stages[-1].label != label:
            self.start(label, total)
        return self

    def start(self, label: str, total: int) -> None:
        """Begin a stage, such as the episodes of one number of shots."""
        self._stages.append(_Stage(self._unit, label, total))
        self._bar.add_task(label, total=total, result="")

    def update(self, n_done: int, result: str) -> None:
        """Report the progress of the stage, and its result so far."""
        stage = self._stages[-1]
        stage.n_done, stage.result = n_done, result
        self._bar.update(self._bar.task_ids[-1], completed=n_done, result=result)

    def report(self, label: str, n_done: int, total: int, result: str = "") -> None:
        """Update the stage of a label, which begins at its first report."""
        if not self._stages or self._stages[-1].label != label:
            self.start(label, total)
        self.update(n_done, result)

    def _sentence(self) -> str:
        done = "; ".join(str(stage) for stage in self._stages if stage.n_done)
        return f"Interrupted {f'after {done}' if done else f'before any {self._unit} were done'}{self._remark}"
