"""Lists on the command line of ``fewshot episode``: methods with their options, distributions, numbers of ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from fewshot.checks import check_choice
from fewshot.registry.episodic import METHODS

from ..shared.options import whole_numbers

__all__ = ["ALL_METHODS", "listed_words", "optional_numbers", "split_methods"]

ALL_METHODS = "all"
Callback = Callable[[click.Context, click.Parameter, Any], Any]


def split_methods(texts: Sequence[str]) -> list[str]:
    """Return one text a method from lists of them; ``all`` means every method that is not named beside it.

    A piece with "=" and without ":" is an option of the method before it.

    Raises
    ------
    ValueError
        If there is no method, an option stands before the first one, or one is given twice.

    Examples
    --------
    >>> split_methods(["unem,paddle:n_layers=9,class_balance=1,simpleshot", "soft-kmeans"])
    ['unem', 'paddle:n_layers=9,class_balance=1', 'simpleshot', 'soft-kmeans']
    """
    named = [method for text in texts for method in _pieces(text)]
    if not named:
        raise ValueError(f"needs a method, such as unem, or {ALL_METHODS}; see fewshot methods")
    repeated = next((name for name in named if named.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"{repeated} is given twice")
    others = [name for name in METHODS if name not in named]
    return [method for name in named for method in (others if name == ALL_METHODS else [name])]


def _pieces(text: str) -> list[str]:
    found: list[str] = []
    for piece in filter(None, (word.strip() for word in text.split(","))):
        if "=" not in piece or ":" in piece:
            found.append(piece)
        elif not found:
            raise ValueError(f"option {piece!r} stands before any method: write NAME:{piece}")
        else:
            separator = "" if found[-1].endswith(":") else "," if ":" in found[-1] else ":"
            found[-1] = f"{found[-1]}{separator}{piece}"
    return found


def listed_words(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of an option that takes some of the words, separated by commas."""

    def read(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
        try:
            return list(dict.fromkeys(check_choice("word", part.strip(), words) for part in value.split(",")))
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return {"callback": read, "metavar": f"LIST of {'|'.join(words)}"}


def optional_numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    """Read ``1,2,5``, or leave the option out."""
    return None if value is None else whole_numbers()(context, parameter, value)
