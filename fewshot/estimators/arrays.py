"""Rows and results of estimators: NumPy arrays or torch tensors, read and answered alike."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import Tensor

from fewshot.checks import check_finite

__all__ = ["ArrayLike", "like", "named", "read_features", "tensor_of"]

ArrayLike: TypeAlias = Tensor | npt.ArrayLike


def read_features(estimator: BaseEstimator, X: ArrayLike, *, reset: bool) -> Tensor:  # noqa: N803
    """Return rows (n, n_features) as a tensor of float32 or float64, checked; half precision is widened.

    Parameters
    ----------
    estimator
        Its ``n_features_in_`` is set, or held against the rows.
    X : array or Tensor (n, n_features)
    reset : bool
        Whether these are the rows that it learns from first.

    Raises
    ------
    ValueError
        If the shape does not fit, or an entry is not finite.
    """
    if not isinstance(X, Tensor):
        return tensor_of(validate_data(estimator, X, dtype="numeric", reset=reset))
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"X must have shape (n, n_features), at least one of each, got {tuple(X.shape)}")
    if reset:
        estimator.n_features_in_ = X.shape[1]
    elif X.shape[1] != estimator.n_features_in_:
        raise ValueError(
            f"X has {X.shape[1]} features, but {type(estimator).__name__} is expecting {estimator.n_features_in_}"
        )
    features = check_finite("X", X.detach())
    return features if features.dtype in (torch.float32, torch.float64) else features.float()


def tensor_of(array: npt.NDArray[Any]) -> Tensor:
    """Return an array as float64 if it is that, else as float32."""
    dtype = np.float64 if array.dtype.kind in "f" and array.dtype.itemsize >= 8 else np.float32
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))


def like(X: ArrayLike, result: Tensor) -> Any:  # noqa: N803
    """Return a result as the kind that the features were, on their device."""
    return result.to(X.device) if isinstance(X, Tensor) else result.cpu().numpy()


def named(X: ArrayLike, names: npt.NDArray[Any], positions: Tensor) -> Any:  # noqa: N803
    """Return the names at positions (n,), as a tensor where both the features and the names can be one."""
    answers = np.ascontiguousarray(names[positions.cpu().numpy()])
    return like(X, torch.from_numpy(answers)) if isinstance(X, Tensor) and answers.dtype.kind in "biuf" else answers
