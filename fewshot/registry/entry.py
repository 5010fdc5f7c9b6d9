"""Entry of a table of methods, and building one from text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from inspect import Parameter
from typing import Generic, TypeVar, cast

from fewshot.checks import check_choice
from fewshot.parsing import parse_options, split_options, text_options

__all__ = ["Entry", "build_entry"]

Built = TypeVar("Built", covariant=True)


@dataclass(frozen=True, slots=True)
class Entry(Generic[Built]):
    """A method under its name on the command line; its code is imported when it is first built.

    Attributes
    ----------
    path : str
        ``package:Class`` or ``package:Class.method``, which takes the method's settings as keywords.
    summary : str
        For the table of ``fewshot methods``.
    reference : str
        A key of the reference list.
    settings : mapping
        Those that differ from the defaults of `path`.
    is_transductive : bool
        Whether the answer to an item depends on the other items.
    """

    path: str
    summary: str
    reference: str
    settings: Mapping[str, object] = field(default_factory=dict)
    is_transductive: bool = False

    @property
    def class_name(self) -> str:
        """The name behind the colon of `path`."""
        return self.path.partition(":")[2]

    def target(self) -> Callable[..., Built]:
        """Import the class or function."""
        module, _, names = self.path.partition(":")
        return cast(Callable[..., Built], reduce(getattr, names.split("."), import_module(module)))

    def build(self, **settings: object) -> Built:
        """Build the method, with settings in place of the entry's own."""
        return self.target()(**{**self.settings, **settings})

    def parameters(self) -> dict[str, Parameter]:
        """Return the settings that can be given as text."""
        return text_options(self.target())

    def options(self) -> dict[str, object]:
        """Return the settings that can be given as text, with their defaults."""
        return {name: self.settings.get(name, option.default) for name, option in self.parameters().items()}


def build_entry(table: Mapping[str, Entry[Built]], text: str) -> Built:
    """Build a method of a table from ``name`` or ``name:option=value,option=value``.

    Raises
    ------
    ValueError
        If the name, an option or a value is not known; the message names the known ones and the nearest.
    """
    name, words = split_options(text)
    entry = table[check_choice("method", name, table)]
    return entry.build(**parse_options(name, words, entry.parameters()))
