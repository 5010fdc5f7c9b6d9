"""Input checks that the doors share, and their wording: what was expected, what came, what to do; deprecated names."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fewshot_episodes.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor  # commands that only print import no torch

__all__ = [
    "REMOVED_IN",
    "SettingError",
    "check_choice",
    "check_finite",
    "check_non_negative",
    "check_positive",
    "current_name",
    "deprecation_note",
    "did_you_mean",
    "warn_deprecated",
]

REMOVED_IN = "0.3"
"""The version that removes the names that are deprecated now."""


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
    raise ValueError(f"unknown {what} {value!r}{did_you_mean(str(value), names)} Known: {', '.join(names)}")


def did_you_mean(word: str, known: Iterable[str], *, n_nearest: int = 1) -> str:
    """Return ``": did you mean 'x'?"`` with the nearest known words, or ``"."`` if none is near.

    Examples
    --------
    >>> did_you_mean("epsode", ["episode", "train"])
    ": did you mean 'episode'?"
    >>> did_you_mean("layer5", ["layer1", "layer4", "fc"], n_nearest=3)
    ": did you mean 'layer4' or 'layer1'?"
    >>> did_you_mean("x", ["episode", "train"])
    '.'
    """
    nearest = difflib.get_close_matches(word, list(known), n=n_nearest, cutoff=0.5)
    return f": did you mean {' or '.join(map(repr, nearest))}?" if nearest else "."


def check_finite(what: str, values: Tensor) -> Tensor:
    """Return ``values`` if every entry is finite.

    Raises
    ------
    ValueError
        Otherwise; the message counts the NaN and infinite entries and names the first row that has one.
    """
    if values.is_meta or not values.is_floating_point():
        return values
    if bool(values.sum().isfinite()):  # then every entry is; the other way round, the sum may have overflowed
        return values
    is_bad = ~values.isfinite()
    if not bool(is_bad.any()):
        return values
    first = tuple(is_bad.nonzero()[0].tolist())
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


def deprecation_note(old: str, new: str) -> str:
    """Return the sentence about a deprecated name.

    Examples
    --------
    >>> deprecation_note("--centre", "--center")
    '--centre is deprecated and will be removed in fewshot 0.3: use --center'
    """
    return f"{old} is deprecated and will be removed in fewshot {REMOVED_IN}: use {new}"


def warn_deprecated(old: str, new: str, *, stacklevel: int = 2) -> None:
    """Warn that a name is deprecated.

    Parameters
    ----------
    old, new : str
        The deprecated name and the one to use, as the user writes them.
    stacklevel : int
        Frame that the warning points at: 1 is the caller, 2 the caller of the caller.

    Notes
    -----
    A ``FutureWarning``, as in scikit-learn: Python shows it wherever the name is used, the command line in its notes.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error")
    ...     warn_deprecated("fewshot.e_step", "fewshot.em.e_step")
    Traceback (most recent call last):
    ...
    FutureWarning: fewshot.e_step is deprecated and will be removed in fewshot 0.3: use fewshot.em.e_step
    """
    warnings.warn(deprecation_note(old, new), FutureWarning, stacklevel=stacklevel + 1)


def current_name(what: str, name: str, renamed: Mapping[str, str]) -> str:
    """Return the current name of an entry of a table, and warn if the name that came is a deprecated one.

    Parameters
    ----------
    what : str
        The kind of entry, for the message: "method".
    name : str
        A current or a deprecated name.
    renamed : mapping of str to str
        The current names by the deprecated ones.

    Examples
    --------
    >>> current_name("method", "unem", {"em-unrolled": "unem"})
    'unem'
    """
    if name not in renamed:
        return name
    warn_deprecated(f"{what} {name!r}", repr(renamed[name]), stacklevel=3)
    return renamed[name]
