"""The error of a setting that does not fit, which knows the names of the settings in its message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any

__all__ = ["SettingError"]


class SettingError(ValueError):
    """A setting, or a combination of settings, that does not fit.

    Parameters
    ----------
    message : str
        Names each setting in braces, ``"{n_shot}"``, and takes each value by its position, ``"{0}"``.
    *values
        Shown as they are, whatever characters they contain.

    Examples
    --------
    >>> error = SettingError("{n_shot} + {n_query} must be at most {0}, got {1}", 20, 25)
    >>> str(error)
    'n_shot + n_query must be at most 20, got 25'
    >>> error.worded(lambda name: "--" + name.replace("_", "-"))
    '--n-shot + --n-query must be at most 20, got 25'
    >>> str(error.renamed(n_query="n_queries"))
    'n_shot + n_queries must be at most 20, got 25'
    """

    def __str__(self) -> str:
        return self.worded(str)

    def renamed(self, **names: str) -> SettingError:
        """Return the same error for settings that the caller has under other names."""
        message, *values = self.args
        own = _Names(lambda name: f"{{{names.get(name, name)}}}")
        keep = [f"{{{position}}}" for position in range(len(values))]
        return SettingError(Formatter().vformat(message, keep, own), *values)

    def worded(self, name_of: Callable[[str], str]) -> str:
        """Return the message with each setting under another name, such as that of a command's option."""
        message, *values = self.args
        return Formatter().vformat(message, values, _Names(name_of))


class _Names(Mapping[str, Any]):
    """Every name, as ``name_of`` has it."""

    def __init__(self, name_of: Callable[[str], str]) -> None:
        self._name_of = name_of

    def __getitem__(self, name: str) -> str:
        return self._name_of(name)

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0
