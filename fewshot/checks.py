"""The input checks that the doors share, and their wording: what was expected, what came, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch
from fewshot_episodes.errors import SettingError
from torch import Tensor

__all__ = ["SettingError", "check_choice", "check_finite", "check_non_negative", "check_positive"]


def check_choice(what: str, value: str, known: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``known``.

    Raises
    ------
    ValueError
        Otherwise; the message names the known values and the nearest one.

    Examples
    --------
    >>> check_choice("method", "unm", ["unem", "paddle"])
    Traceback (most recent call last):
    ...
    ValueError: unknown method 'unm': did you mean 'unem'? Known: paddle, unem
    """
    names = sorted(known)
    if value in names:
        return value
    nearest = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f": did you mean {nearest[0]!r}? Known" if nearest else ". Known"
    raise ValueError(f"unknown {what} {value!r}{hint}: {', '.join(names)}")


def check_finite(what: str, values: Tensor) -> Tensor:
    """Return ``values`` if every entry is finite.

    Raises
    ------
    ValueError
        Otherwise; the message counts the NaN and infinite entries and names the first row that has one.
    """
    if values.is_meta or not values.is_floating_point():
        return values
    if bool(torch.isfinite(values.sum())):  # then every entry is; the other way round, the sum may have overflowed
        return values
    is_bad = ~torch.isfinite(values)
    if not bool(is_bad.any()):
        return values
    first = tuple(torch.nonzero(is_bad)[0].tolist())
    n_nan, n_bad = int(values.isnan().sum()), int(is_bad.sum())
    raise ValueError(
        f"{what} has {n_nan} NaN and {n_bad - n_nan} infinite entries, the first at index {first}: "
        "remove or repair these rows"
    )


def check_positive(what: str, value: float) -> float:
    """Return ``value`` if it is positive.

    Raises
    ------
    ValueError
        Otherwise.
    """
    if not value > 0:
        raise ValueError(f"{what} must be positive, got {value}")
    return value


def check_non_negative(what: str, value: float) -> float:
    """Return ``value`` if it is not negative.

    Raises
    ------
    ValueError
        Otherwise.
    """
    if not value >= 0:
        raise ValueError(f"{what} must not be negative, got {value}")
    return value
