"""Rows with labels of any hashable kind, read for an estimator; some labels may say that there is none."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable
from typing import Any, TypeAlias

import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from torch import Tensor

from fewshot.estimators.arrays import ArrayLike, read_features, tensor_of
from fewshot.estimators.labels import is_mixed, plain

__all__ = ["Labels", "is_missing", "listed", "read_labelled", "warn_of_queries"]

Labels: TypeAlias = Tensor | npt.NDArray[Any] | Iterable[Hashable]


def read_labelled(estimator: BaseEstimator, X: ArrayLike, y: Labels) -> tuple[Tensor, list[Hashable]]:  # noqa: N803
    """Return rows (n, n_features) as `fewshot.estimators.arrays.read_features` has them, and labels as Python objects.

    Parameters
    ----------
    estimator
        Its ``n_features_in_`` is set.
    X : array or Tensor (n, n_features)
    y : array, Tensor or sequence (n,)

    Raises
    ------
    ValueError
        If shapes do not match, features are not finite, or a label is NaN or cannot be hashed.
    """
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    if not isinstance(X, Tensor) and not (isinstance(y, (list, tuple, Tensor)) or is_mixed(y)):
        rows, targets = validate_data(estimator, X, y, dtype="numeric")
        check_classification_targets(targets)
        return tensor_of(rows), targets.tolist()
    labels = listed(y)
    strange = next((label for label in labels if not isinstance(label, Hashable) or label != label), None)
    if strange is not None:
        raise ValueError(f"y must hold one hashable label per row, got {strange!r}")
    features = read_features(estimator, X, reset=True)
    if len(labels) != len(features):
        raise ValueError(f"X has {len(features)} rows and y {len(labels)} labels: give one label per row")
    return features, labels


def listed(y: Labels) -> list[Hashable]:
    """Return labels as Python's own kinds."""
    values = y.tolist() if hasattr(y, "tolist") else list(y)
    if not isinstance(values, list):
        raise ValueError(f"y must be one label per row, got {values!r}")
    return [plain(label) for label in values]


def is_missing(label: Hashable) -> bool:
    """Whether a label says that there is none: -1 as in `sklearn.semi_supervised`, and what lists of names make of it.

    Examples
    --------
    >>> [is_missing(label) for label in (-1, None, "-1", 0, "crow")]
    [True, True, True, False, False]
    """
    return label is None or label == -1 or label == "-1"


def warn_of_queries(labels: list[Hashable]) -> None:
    """Warn where -1 is more likely "no label" than a class: beside numbers from 0, or beside names."""
    others = set(labels) - {-1}
    is_label = len(others) == len(set(labels)) or len(others) < 2
    if is_label or any(isinstance(label, (int, float)) and label < 0 for label in others):
        return
    warnings.warn("-1 in y is taken as a class of its own: fit_predict takes it as a row to answer", stacklevel=3)
