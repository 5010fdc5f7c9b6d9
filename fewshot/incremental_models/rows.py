"""Rows for a classifier on disk: when they are read, and whether they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fewshot.features import FeatureSet
from fewshot.features.feature_set import check_same_source
from fewshot.incremental import IncrementalClassifier

__all__ = ["check_fits", "read_rows"]


def read_rows(rows: FeatureSet | Callable[[], FeatureSet]) -> FeatureSet:
    """Return rows, or read them."""
    return rows() if callable(rows) else rows


def check_fits(
    classifier: IncrementalClassifier, source: Mapping[str, object], pool: FeatureSet, names: tuple[str, str]
) -> None:
    """Check that rows are such as a classifier has learned: of one extractor, and of one width.

    Parameters
    ----------
    classifier : IncrementalClassifier
    source : mapping
        The source of the features that it has learned.
    pool : FeatureSet
    names : (str, str)
        Of the classifier and of the rows, for messages.

    Raises
    ------
    ValueError
        If they are not; the message says which two they were.
    """
    check_same_source(source, pool.source, names)
    n_features = pool.features.shape[1]
    if n_features != classifier.n_features_in_:
        raise ValueError(
            f"{names[0]} has learned rows of {classifier.n_features_in_} features, {names[1]} has {n_features} a row: "
            "extract both with one extractor"
        )
