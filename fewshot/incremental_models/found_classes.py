"""Rows of the classes that ``fewshot discover`` found, to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fewshot.checks import SettingError, did_you_mean
from fewshot.evaluation.discovery.files import Assignment, SortedPool, read_assignments, read_sorted_pool, sorted_pool
from fewshot.features import FeatureSet, load_features
from fewshot.features.feature_set import check_same_source

__all__ = ["FoundClasses", "found_pool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundClasses:
    """Classes that ``fewshot discover`` found, and which of their rows to learn from.

    Parameters
    ----------
    folder : str
        The one that it wrote.
    names : mapping of str to str
        New names by found ones; two found classes may get one name.
    min_probability : float
        In [0, 1]: rows that are of their class with a lower probability are left out.
    features : str, optional
        Where the features are now. Default: where they were.

    Raises
    ------
    SettingError
        If no class is named, or the probability is out of range.
    """

    folder: str
    names: Mapping[str, str]
    min_probability: float = 0.5
    features: str | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise SettingError("{names} must name the classes to learn, such as new-01, got none")
        if not 0 <= self.min_probability <= 1:
            raise SettingError("{min_probability} must lie in [0, 1], got {0}", self.min_probability)

    def file(self) -> str:
        """Return where the features are.

        Raises
        ------
        FileNotFoundError
            If the folder is not there.
        ValueError
            If it holds something else.
        """
        return read_sorted_pool(self.folder).path if self.features is None else self.features


def found_pool(found: FoundClasses) -> FeatureSet:
    """Return the rows of some found classes under their new names.

    Raises
    ------
    FileNotFoundError
        If the folder is not there.
    SettingError
        If the features are not where they were, or a class has no row of that probability.
    ValueError
        If the features are others than those that were sorted, or a class is not known.
    """
    pool = _load_sorted(found, read_sorted_pool(found.folder))
    rows = _rows_of(found, read_assignments(found.folder))
    class_names = tuple(sorted(set(found.names.values())))
    labels = torch.full((len(pool.labels),), -1)
    for name, own in rows.items():
        labels[own] = class_names.index(found.names[name])
    return replace(pool, labels=labels, class_names=class_names).labelled()


def _load_sorted(found: FoundClasses, wanted: SortedPool) -> FeatureSet:
    """Return the rows that were sorted, checked to be the same."""
    file = wanted.path if found.features is None else found.features
    try:
        pool = load_features(file, needs_labels=False)
    except (FileNotFoundError, ValueError) as error:
        if found.features is not None or Path(file).exists():
            raise
        raise SettingError(
            "the features that {0} was made of are not at {1}: say where they are with {features}", found.folder, file
        ) from error
    check_same_source(wanted.source, pool.source, (found.folder, file))
    if sorted_pool(file, pool).rows_sha256 != wanted.rows_sha256:
        raise SettingError(
            "{0} has {1} rows, not the same {2} that {3} was made of: name these with {features}, or run fewshot "
            "discover again",
            file,
            f"{len(pool.labels):,}",
            f"{wanted.n:,}",
            found.folder,
        )
    return pool


def _rows_of(found: FoundClasses, table: Sequence[Assignment]) -> dict[str, list[int]]:
    """Return the rows of each class whose probability is high enough."""
    counts = Counter(entry.class_name for entry in table)
    return {name: _rows(found, name, table, counts) for name in found.names}


def _rows(found: FoundClasses, name: str, table: Sequence[Assignment], counts: Mapping[str, int]) -> list[int]:
    if name not in counts:
        raise ValueError(f"{found.folder} has no rows of a class {name!r}{did_you_mean(name, counts)}")
    rows = [entry.row for entry in table if entry.class_name == name and entry.probability >= found.min_probability]
    if not rows:
        raise SettingError(
            "none of the {0} rows of {1!r} has a probability of {2:g} or more: lower {min_probability}",
            f"{counts[name]:,}",
            name,
            found.min_probability,
        )
    return rows
