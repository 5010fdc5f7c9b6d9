"""Base of classifiers by means and covariances: their state, and tables computed from it on use."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from fewshot.incremental.covariances import ClassScatters, PooledScatter
from fewshot.incremental.estimator import IncrementalClassifier

__all__ = ["CovarianceClassifier"]


class CovarianceClassifier(IncrementalClassifier):
    """Statistics with scatters, and a table that is emptied when they change."""

    _statistics: PooledScatter | ClassScatters

    def _begin(self, n_features: int, dtype: torch.dtype, device: torch.device) -> None:
        self._check_settings()
        self._statistics = self._empty(n_features, device)
        self._table: dict[str, Any] = {}

    @abstractmethod
    def _check_settings(self) -> None:
        """Refuse settings out of range."""

    def _empty(self, n_features: int, device: torch.device) -> PooledScatter | ClassScatters:
        """Return statistics of no class."""
        return PooledScatter(n_features, device)

    def _learn(self, features: Tensor, index: Tensor, n_classes: int, *, base: bool) -> None:
        self._statistics.add(features, index, n_classes, base=base)
        self._table.clear()

    def _forget(self, position: int) -> None:
        self._statistics.remove(position)
        self._table.clear()

    def _is_base(self) -> Tensor:
        return self._statistics.is_base

    def _class_state(self) -> dict[str, Tensor]:
        return self._statistics.tensors()

    def _set_state(self, tensors: dict[str, Tensor]) -> None:
        self._statistics.load(tensors)
        self._table.clear()
