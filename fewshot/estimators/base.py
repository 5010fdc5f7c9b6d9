"""Base of all estimators: arrays or tensors in and out, answers in bounded memory, the state as tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from typing import ClassVar, Self

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewshot.estimators.arrays import ArrayLike, read_features

__all__ = ["StoredEstimator", "TensorEstimator"]

# Scores that an answer holds at a time, beside the result.
MAX_SCORES = 2**24


class TensorEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """Estimator that computes in torch and answers in the kind that it was asked in.

    Attributes
    ----------
    n_features_in_ : int
    dtype_ : torch.dtype
        That of the first features; scores are computed in it.
    """

    n_features_in_: int
    dtype_: torch.dtype
    # The attribute that is there once the estimator is fitted.
    _fitted: ClassVar[str]

    @abstractmethod
    def _device(self) -> torch.device:
        """Return the device of the state."""

    def _queries(self, X: ArrayLike) -> Tensor:  # noqa: N803
        """Return rows to answer, checked, on the device and in the dtype of the state."""
        check_is_fitted(self, self._fitted)
        return read_features(self, X, reset=False).to(self._device(), self.dtype_)

    def _chunks(self, rows: Tensor, n_columns: int) -> tuple[Tensor, ...]:
        """Split rows so that `MAX_SCORES` scores of ``n_columns`` a row are held at a time."""
        return torch.split(rows, max(1, MAX_SCORES // max(1, n_columns)))


class StoredEstimator(TensorEstimator):
    """Estimator whose state goes to storage as tensors."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state as tensors, for storage; `restore` takes them back."""
        check_is_fitted(self, self._fitted)
        return self._state()

    def restore(
        self, names: Iterable[Hashable], tensors: Mapping[str, Tensor], n_features: int, dtype: torch.dtype
    ) -> Self:
        """Take back a state, as if all rows had been tensors.

        Parameters
        ----------
        names
            Of ``classes_``, in order.
        tensors
            As `tensors` gave them.
        n_features : int
        dtype : torch.dtype
            That scores are computed in: ``dtype_``.
        """
        self.n_features_in_, self.dtype_ = n_features, dtype
        self._restore(list(names), dict(tensors))
        return self

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """Return the state."""

    @abstractmethod
    def _restore(self, names: list[Hashable], tensors: dict[str, Tensor]) -> None:
        """Restore the state that `_state` returned; ``n_features_in_`` and ``dtype_`` are set."""
