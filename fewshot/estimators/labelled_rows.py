"""Reading of labels of any hashable kind, with their rows or for a pool that is labelled in part."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable
from typing import Any, TypeAlias

import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from torch import Tensor

from fewshot.estimators.arrays import ArrayLike, read_features, tensor_of
from fewshot.estimators.labels import CategoricalLabels, in_order, is_mixed, plain

__all__ = [
    "Labels",
    "is_missing",
    "listed",
    "raveled",
    "read_labelled",
    "read_partial_labels",
    "warn_of_queries",
]

Labels: TypeAlias = Tensor | npt.NDArray[Any] | Iterable[Hashable]


def read_labelled(
    estimator: BaseEstimator,
    X: ArrayLike,  # noqa: N803
    y: Labels,
    *,
    reset: bool = True,
    has_queries: bool = False,
) -> tuple[Tensor, list[Hashable]]:
    """Return rows (n, n_features) as `fewshot.estimators.arrays.read_features` has them, and labels as Python objects.

    Parameters
    ----------
    estimator
        Its ``n_features_in_`` is set, or held against the rows.
    X : array or Tensor (n, n_features)
    y : array, Tensor or sequence (n,)
    reset : bool
        Whether these are the rows that it learns from first.
    has_queries : bool
        Whether rows may be without a label: what is missing in a column of pandas, polars or arrow is None.

    Raises
    ------
    ValueError
        If shapes do not match, features are not finite, or a label is NaN or cannot be hashed.
    """
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    column, y = y, _from_column(y)
    if column is not y and None in y and not has_queries:
        raise ValueError(f"y has no label in row {list(y).index(None)}: leave rows without one out")
    if not isinstance(X, Tensor) and not (isinstance(y, (list, tuple, Tensor)) or is_mixed(y)):
        rows, targets = validate_data(estimator, X, y, dtype="numeric", reset=reset)
        check_classification_targets(targets)
        return tensor_of(rows), targets.tolist()
    labels = listed(y)
    _check_hashable(labels)
    features = read_features(estimator, X, reset=reset)
    if len(labels) != len(features):
        raise ValueError(f"X has {len(features)} rows and y {len(labels)} labels: give one label per row")
    return features, labels


def read_partial_labels(
    y: Labels | CategoricalLabels | None, n_rows: int, device: torch.device
) -> tuple[list[Hashable], Tensor]:
    """Return the known names in order, and (n,) which of them each row has, or -1.

    Parameters
    ----------
    y : array, Tensor, sequence (n,) or CategoricalLabels, optional
        Default: no row has a label.
    n_rows : int
    device : torch.device

    Raises
    ------
    ValueError
        If there is not one label per row, or a label is NaN or cannot be hashed.
    """
    if y is None:
        return [], torch.full((n_rows,), -1, device=device)
    if isinstance(y, CategoricalLabels):
        _check_length(len(y.codes), n_rows)
        names, codes = y.present()
        return names, codes.to(device)
    labels = listed(y)
    _check_length(len(labels), n_rows)
    _check_hashable(labels, ": mark rows without one by -1")
    names = in_order(list(dict.fromkeys(label for label in labels if not is_missing(label))))
    position = {name: index for index, name in enumerate(names)}
    return names, torch.tensor([position.get(label, -1) for label in labels], device=device)


def _from_column(y: Labels) -> Labels:
    """Return a column of pandas, polars or arrow as a list, its missing values as None; other labels as they are.

    Examples
    --------
    >>> import pandas
    >>> _from_column(pandas.Series(["crow", None])), _from_column(pandas.Series([1, pandas.NA], dtype="Int64"))
    (['crow', None], [1, None])
    """
    read = getattr(y, "to_pylist", None) or getattr(y, "to_list", None)
    if read is None and hasattr(y, "categories"):  # pandas.Categorical
        read = getattr(y, "tolist", None)
    return y if read is None else [None if _is_na(value) else value for value in read()]


def _is_na(value: object) -> bool:
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)


def _check_length(n_labels: int, n_rows: int) -> None:
    if n_labels != n_rows:
        raise ValueError(f"X has {n_rows} rows and y {n_labels} labels: give one per row, -1 for a row without one")


def _check_hashable(labels: list[Hashable], hint: str = "") -> None:
    strange = next((label for label in labels if not isinstance(label, Hashable) or label != label), None)
    if strange is not None:
        raise ValueError(f"y must hold one hashable label per row, got {strange!r}{hint}")


def listed(y: Labels) -> list[Hashable]:
    """Return labels as Python's own kinds."""
    y = _from_column(y)
    values = y.tolist() if hasattr(y, "tolist") else list(y)
    if not isinstance(values, list):
        raise ValueError(f"y must be one label per row, got {values!r}")
    return [plain(label) for label in values]


def raveled(y: Labels) -> Labels:
    """Ravel a column (n, 1), with the warning of scikit-learn."""
    if getattr(y, "ndim", 1) == 2 and y.shape[1] == 1:  # type: ignore[union-attr]
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples,), "
            "for example using ravel().",
            DataConversionWarning,
            stacklevel=3,
        )
        return y.reshape(-1)  # type: ignore[union-attr]
    return y


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
