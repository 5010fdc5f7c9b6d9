"""Labels of any hashable kind, as they come and as they go."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["CategoricalLabels", "in_order", "is_mixed", "label_array", "new_names", "plain", "with_unknown"]


class CategoricalLabels(NamedTuple):
    """Labels as positions in a list of names, as pandas' ``Categorical`` holds them.

    Attributes
    ----------
    codes : Tensor (n,), int64
        Positions in ``categories``; -1 = no label.
    categories : tuple
        Distinct names. Their order is kept; those without a row are no classes.
    """

    codes: Tensor
    categories: tuple[Hashable, ...]

    def present(self) -> tuple[list[Hashable], Tensor]:
        """Return the names that have a row, and the positions (n,) in these; -1 = no label.

        Examples
        --------
        >>> names, codes = CategoricalLabels(torch.tensor([2, -1, 0, 2]), ("wren", "crow", "jay")).present()
        >>> names, codes.tolist()
        (['wren', 'jay'], [1, -1, 0, 1])
        """
        present = torch.unique(self.codes[self.codes >= 0])
        positions = torch.where(self.codes < 0, -1, torch.searchsorted(present, self.codes.clamp(min=0)))
        return [self.categories[code] for code in present.tolist()], positions


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
