"""Sections and parameters of numpydoc docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

__all__ = ["description", "parameters", "sections"]

_FIELD = re.compile(r"^([*\w, ]+?)(?: : .*)?$")


def sections(item: object) -> dict[str, list[str]]:
    """Return the lines of each section of an item's docstring; those before the first under the name of nothing."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    lines = (inspect.getdoc(item) or "").splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line and below and set(below) == {"-"}:
            name = line
            found[name] = []
        elif not (line and set(line) == {"-"}):
            found[name].append(line)
    return found


def description(item: object) -> list[str]:
    """Return what a docstring says before its sections, without the blank lines at the end."""
    return "\n".join(sections(item)[""]).rstrip().splitlines()


def parameters(item: object) -> dict[str, str]:
    """Return the description of each parameter.

    Examples
    --------
    >>> from fewshot.episodic.paddle import Paddle
    >>> list(parameters(Paddle))
    ['class_balance', 'n_layers']
    """
    found: dict[str, list[str]] = {}
    names: Sequence[str] = ()
    for line in sections(item).get("Parameters", []):
        if line[:1].strip() and (field := _FIELD.match(line)):
            names = [name.strip("* ") for name in field[1].split(",")]
            found |= {name: [] for name in names}
        else:
            for name in names:
                found[name].append(line.strip())
    return {name: " ".join(filter(None, lines)) for name, lines in found.items()}
