"""Options of few-shot episodes that several commands share, and their lists of methods, words and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from fewshot_episodes.sampler import QUERY_DISTRIBUTIONS

from fewshot.checks import check_choice
from fewshot.registry.episodic import METHODS

from ..shared.options import COUNT, NUMBERS, POSITIVE, Decorator, bundle, setting_option

__all__ = [
    "ALL_METHODS",
    "dirichlet_option",
    "distribution_option",
    "effective_way_option",
    "limit_options",
    "listed_words",
    "small_class_option",
    "split_methods",
]

ALL_METHODS = "all"


def split_methods(texts: Sequence[str]) -> tuple[str, ...]:
    """Return one text a method from lists of them; ``all`` means every method that is not named beside it.

    A piece with "=" and without ":" is an option of the method before it.

    Raises
    ------
    ValueError
        If there is no method, an option stands before the first one, or one is given twice.

    Examples
    --------
    >>> split_methods(["unem,paddle:n_layers=9,class_balance=1,simpleshot", "soft-kmeans"])
    ('unem', 'paddle:n_layers=9,class_balance=1', 'simpleshot', 'soft-kmeans')
    """
    named = [method for text in texts for method in _pieces(text)]
    if not named:
        raise ValueError(f"needs a method, such as unem, or {ALL_METHODS}; see fewshot methods")
    for name in named:
        if named.count(name) > 1:
            raise ValueError(f"{name} is given twice")
    return _all_named(named)


def _all_named(named: Sequence[str]) -> tuple[str, ...]:
    """Put every method that is not named in the place of ``all``."""
    others = [name for name in METHODS if name not in named]
    return tuple(method for name in named for method in (others if name == ALL_METHODS else [name]))


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

    def read(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
        try:
            return tuple(dict.fromkeys(check_choice("word", part.strip(), words) for part in value.split(",")))
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return {"callback": read, "metavar": f"LIST of {'|'.join(words)}"}


def distribution_option(settings: type, text: str) -> Decorator:
    """Return ``--query-distribution``."""
    return setting_option(settings, "query_distribution", listed_words(QUERY_DISTRIBUTIONS), text)


def effective_way_option(settings: type, text: str) -> Decorator:
    """Return ``--n-effective-way``."""
    return setting_option(settings, "n_effective_way", NUMBERS, text, show_default="n-way")


def dirichlet_option(settings: type) -> Decorator:
    """Return ``--dirichlet-concentration``."""
    return setting_option(
        settings, "dirichlet_concentration", POSITIVE, "The smaller, the more skewed the class shares."
    )


def small_class_option(settings: type) -> Decorator:
    """Return ``--on-small-class``."""
    text = "What to do about a class with too few items."
    return setting_option(settings, "on_small_class", ("error", "skip"), text)


def limit_options(settings: type) -> Decorator:
    """Return ``--batch-size`` and ``--on-small-class``."""
    text = "Episodes at once: sets the memory used and changes no result."
    return bundle(setting_option(settings, "batch_size", COUNT, text), small_class_option(settings))
