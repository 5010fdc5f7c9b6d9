"""Labels of any hashable kind, as they come and as they go."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["in_order", "is_mixed", "label_array", "new_names", "plain", "with_unknown"]


def plain(label: Any) -> Hashable:
    """Return a label as Python's own kind, so that equal ones are one."""
    value: Hashable = label.item() if isinstance(label, (np.generic, Tensor)) else label
    return value


def is_mixed(y: object) -> bool:
    """Whether labels are objects other than strings."""
    return isinstance(y, np.ndarray) and y.dtype.kind == "O" and not all(isinstance(label, str) for label in y.flat)


def in_order(labels: list[Hashable]) -> list[Hashable]:
    """Return labels sorted where they can be, else in order of arrival."""
    try:
        return sorted(labels)  # type: ignore[type-var]
    except TypeError:
        return labels


def label_array(labels: Iterable[Hashable]) -> npt.NDArray[Any]:
    """Return labels as an array of numbers or strings if they are of one such kind, else of objects."""
    values = list(labels)
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and kinds <= {bool, int, float, str}:
        return np.array(values)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def with_unknown(names: npt.NDArray[Any], unknown: Hashable) -> npt.NDArray[Any]:
    """Return the labels with the answer for none of them at the end."""
    answer = unknown if unknown is not None else -1 if names.dtype.kind in "biuf" else "unknown"
    if answer in names.tolist():
        raise ValueError(f"unknown={answer!r} is the label of a class: choose another answer for rows of no class")
    return label_array([*names.tolist(), answer])


def new_names(known: Iterable[Hashable], n_new: int) -> list[str]:
    """Return names for found classes that no known class has.

    Examples
    --------
    >>> new_names(["crow", "new-01"], 2)
    ['new-02', 'new-03']
    """
    taken = set(known)
    width = max(2, len(str(n_new)))
    names = (f"new-{number:0{width}}" for number in range(1, n_new + len(taken) + 1))
    return [name for name in names if name not in taken][:n_new]
