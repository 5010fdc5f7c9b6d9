"""Rows of the classes that ``fewshot discover`` found, to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fewshot.checks import did_you_mean
from fewshot.features import FeatureSet, load_features
from fewshot.features.feature_set import check_same_source

from .results import Assignment, SortedPool, read_assignments, read_sorted_pool, sorted_pool

__all__ = ["found_pool"]


def found_pool(
    path: str, names: Mapping[str, str], min_probability: float, features: str | None
) -> tuple[FeatureSet, str]:
    """Return the rows of some found classes under new names, and the file that they are of.

    Parameters
    ----------
    path
        What ``fewshot discover`` wrote.
    names
        New names by found ones; two found classes may get one name.
    min_probability
        Rows of a lower probability are left out.
    features
        Where the features are, if not where they were.

    Raises
    ------
    FileNotFoundError
        If the features or the folder are not there.
    ValueError
        If the features are others than those that were sorted, or a class is not known or has no row of that
        probability.
    """
    pool, file = _load_sorted(path, read_sorted_pool(path), features)
    rows = _rows_of(path, read_assignments(path), names, min_probability)
    class_names = tuple(sorted(set(names.values())))
    labels = torch.full((len(pool.labels),), -1)
    for found, own in rows.items():
        labels[own] = class_names.index(names[found])
    return replace(pool, labels=labels, class_names=class_names).labelled(), file


def _load_sorted(path: str, wanted: SortedPool, features: str | None) -> tuple[FeatureSet, str]:
    """Return the rows that were sorted, checked to be the same, and where they are."""
    file = wanted.path if features is None else features
    try:
        pool = load_features(file, needs_labels=False)
    except (FileNotFoundError, ValueError) as error:
        if features is not None or Path(file).exists():
            raise
        raise FileNotFoundError(
            f"the features that {path} was made of are not at {file}: say where they are with --features"
        ) from error
    check_same_source(wanted.source, pool.source, (path, file))
    if sorted_pool(file, pool).rows_sha256 != wanted.rows_sha256:
        raise ValueError(
            f"{file} has {len(pool.labels):,} rows, not the same {wanted.n:,} that {path} was made of: name these with "
            "--features, or run fewshot discover again"
        )
    return pool, file


def _rows_of(
    path: str, table: Sequence[Assignment], names: Iterable[str], min_probability: float
) -> dict[str, list[int]]:
    """Return the rows of some found classes whose probability is high enough."""
    counts, found = Counter(entry.class_name for entry in table), {}
    for name in names:
        if name not in counts:
            raise ValueError(f"{path} has no rows of a class {name!r}{did_you_mean(name, counts)}")
        found[name] = [
            entry.row for entry in table if entry.class_name == name and entry.probability >= min_probability
        ]
        if not found[name]:
            raise ValueError(
                f"none of the {counts[name]:,} rows of {name!r} has a probability of {min_probability:g} or more: "
                "lower --min-probability"
            )
    return found
