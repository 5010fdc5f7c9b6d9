"""Scatter within classes, updated exactly as items come, and covariances from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from fewshot.incremental.class_statistics import ClassStatistics

__all__ = [
    "ClassScatters",
    "PooledScatter",
    "cholesky_factor",
    "correlation",
    "diagonal_shrinkage",
    "shrunk_covariance",
    "tukey_transform",
]

_CHUNK = 8192


class _ScatterStatistics(ClassStatistics, ABC):
    """Class statistics with scatters, Σ (x - μ)(x - μ)ᵀ, in float64.

    Items are centered before they are multiplied, and a shift of the mean is added as a term of its own (Chan, Golub
    and LeVeque 1983): no large numbers are subtracted, so that features far from the origin lose no precision.
    In whatever order and parts items come, the scatter is the same up to rounding.
    """

    def add(self, features: Tensor, index: Tensor, n_classes: int, *, base: bool) -> None:
        """Take in features (n, n_features) of classes ``index`` (n,), see `ClassStatistics.add`."""
        self._reserve(n_classes)
        for rows, classes in zip(torch.split(features, _CHUNK), torch.split(index, _CHUNK), strict=True):
            deviations, owners = self._deviations(rows.double(), classes)
            super().add(rows, classes, n_classes, base=base)
            self._accumulate(deviations, owners)

    def remove(self, position: int) -> None:
        """Forget a class; those after it move up."""
        keep = torch.arange(self.n_classes, device=self._counts.device) != position
        super().load({name: tensor[keep] for name, tensor in super().tensors().items()})

    def _deviations(self, rows: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors whose outer products add up to the growth of the scatters, and their classes.

        These are each item less the mean of its class in this part, and √(n m / (n + m)) times the part's mean less the
        mean so far, for n items so far and m in the part.
        """
        present, inverse = torch.unique(classes, return_inverse=True)
        n_new = torch.bincount(inverse).to(rows)
        means = rows.new_zeros((len(present), rows.shape[1])).index_add_(0, inverse, rows) / n_new[:, None]
        n_old = self._counts[present]
        gaps = means - self._sums[present] / n_old.clamp(min=1)[:, None]
        gaps *= (n_old * n_new / (n_old + n_new)).sqrt()[:, None]
        return torch.cat([rows - means[inverse], gaps]), torch.cat([classes, present])

    @abstractmethod
    def _accumulate(self, deviations: Tensor, owners: Tensor) -> None:
        """Add the outer products of deviations (n, n_features) to the scatters of their classes (n,)."""


class PooledScatter(_ScatterStatistics):
    """One scatter within all classes.

    Attributes
    ----------
    scatter : Tensor (n_features, n_features)
    n_free : Tensor ()
        Items less classes in ``scatter``.

    Notes
    -----
    A sum does not know its parts: `remove` drops the mean and the count of a class, its scatter and its degrees of
    freedom stay. `ClassScatters` can take a class out, for n_features² numbers per class.
    """

    def __init__(self, n_features: int, device: torch.device) -> None:
        super().__init__(n_features, device)
        self.scatter = torch.zeros((n_features, n_features), dtype=torch.float64, device=device)
        self.n_free = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, features: Tensor, index: Tensor, n_classes: int, *, base: bool) -> None:
        """Take in features (n, n_features) of classes ``index`` (n,), see `ClassStatistics.add`."""
        before = (self.counts - 1).sum()
        super().add(features, index, n_classes, base=base)
        self.n_free = self.n_free + (self.counts - 1).sum() - before

    def pooled(self) -> Tensor:
        """Return the covariance within classes, scatter over n - n_classes; zero if no class had two items."""
        return self.scatter / self.n_free.clamp(min=1)

    def tensors(self) -> dict[str, Tensor]:
        """Return all there is to keep."""
        return super().tensors() | {"scatter": self.scatter, "n_free": self.n_free}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        super().load(tensors)
        self.scatter, self.n_free = tensors["scatter"].clone(), tensors["n_free"].clone()

    def _accumulate(self, deviations: Tensor, owners: Tensor) -> None:
        self.scatter.addmm_(deviations.mT, deviations)


class ClassScatters(_ScatterStatistics):
    """One scatter per class, or per base class.

    Parameters
    ----------
    n_features
    device
    base_only
        Whether other classes have none.
    """

    def __init__(self, n_features: int, device: torch.device, *, base_only: bool = False) -> None:
        super().__init__(n_features, device)
        self._base_only = base_only
        self._scatters: dict[int, Tensor] = {}

    def covariance(self, position: int, pooled: Tensor) -> Tensor:
        """Return a class's unbiased covariance; of a class of one item, which has none, that within all classes."""
        n_free = self.counts[position] - 1
        return self._scatters[position] / n_free if n_free > 0 else pooled

    def pooled(self) -> Tensor:
        """Return the covariance within classes, scatter over n - n_classes; zero if no class has two items."""
        total = self._sums.new_zeros((self._sums.shape[1], self._sums.shape[1]))
        for scatter in self._scatters.values():
            total += scatter
        return total / (self.counts[sorted(self._scatters)] - 1).sum().clamp(min=1)

    def remove(self, position: int) -> None:
        """Forget a class, its scatter included; those after it move up."""
        super().remove(position)
        self._scatters = without(self._scatters, position)

    def tensors(self) -> dict[str, Tensor]:
        """Return all there is to keep."""
        size = self._sums.shape[1]
        kept = [self._scatters[position] for position in sorted(self._scatters)]
        return super().tensors() | {"scatters": torch.stack(kept) if kept else self._sums.new_zeros((0, size, size))}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        super().load(tensors)
        kept = torch.nonzero(self.is_base)[:, 0].tolist() if self._base_only else range(self.n_classes)
        self._scatters = {position: row.clone() for position, row in zip(kept, tensors["scatters"], strict=True)}

    def _accumulate(self, deviations: Tensor, owners: Tensor) -> None:
        order = owners.argsort(stable=True)
        present, counts = torch.unique(owners, return_counts=True)
        parts = torch.split(deviations[order], counts.tolist())
        for position, part in zip(present.tolist(), parts, strict=True):
            if self._base_only and not self.is_base[position]:
                continue
            if position not in self._scatters:
                self._scatters[position] = part.new_zeros((part.shape[1], part.shape[1]))
            self._scatters[position].addmm_(part.mT, part)


def without(table: dict[int, Any], position: int) -> dict[int, Any]:
    """Return a table by position from which one is taken out; those after it move up."""
    return {key - (key > position): value for key, value in table.items() if key != position}


def tukey_transform(features: Tensor, power: float | None) -> Tensor:
    """Raise features that are not negative to a power; None leaves them.

    Examples
    --------
    >>> tukey_transform(torch.tensor([4.0, 0.0]), 0.5)
    tensor([2., 0.])
    """
    if power is None:
        return features
    return features.sqrt() if power == 0.5 else features.pow(power)


def check_tukey(features: Tensor, power: float | None) -> Tensor:
    """Return features if they can be raised to the power.

    Raises
    ------
    ValueError
        If one is negative.
    """
    if power is not None and not bool((features >= 0).all()):
        raise ValueError(
            f"tukey={power} takes a power of the features, which must not be negative, got {features.min():.4g}: "
            "set tukey=None, as for features that did not come out of a ReLU"
        )
    return features


def check_tukey_power(power: float | None) -> None:
    """Check the setting itself.

    Raises
    ------
    ValueError
        If it is neither None nor positive.
    """
    if power is not None and not power > 0:
        raise ValueError(f"tukey must be positive or None, got {power}: log(x), the original's 0, is not for zeros")


def diagonal_shrinkage(covariance: Tensor, shrinkage: float) -> Tensor:
    """Return (1 - s) Σ + s (trΣ / d) I; the identity if Σ is zero.

    Parameters
    ----------
    covariance : Tensor (n_features, n_features)
    shrinkage : float
        s, in [0, 1].

    Returns
    -------
    Tensor (n_features, n_features)

    Source
    ------
    Ledoit and Wolf 2004; scikit-learn's ``shrunk_covariance`` and ``LinearDiscriminantAnalysis``.

    Examples
    --------
    >>> diagonal_shrinkage(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), 0.5)
    tensor([[2.5000, 0.5000],
            [0.5000, 1.5000]])
    """
    mean = covariance.diagonal().mean()
    if mean == 0:
        return torch.eye(len(covariance)).to(covariance)
    result = (1 - shrinkage) * covariance
    result.diagonal().add_(shrinkage * mean)
    return result


def shrunk_covariance(covariance: Tensor, shrinkage: tuple[float, float]) -> Tensor:
    """Return Σ + γ₁ V₁ I + γ₂ V₂ (11ᵀ - I), with V₁ and V₂ the means of its diagonal and its other entries.

    Parameters
    ----------
    covariance : Tensor (n_features, n_features)
    shrinkage : tuple of two floats
        γ₁ and γ₂.

    Returns
    -------
    Tensor (n_features, n_features)

    Notes
    -----
    The authors' code takes V₂ over entries that are not exactly zero; the mean over all, as in the paper, does not jump
    where rounding makes an entry of a zero.

    Source
    ------
    [FECAM], and its released code.

    Examples
    --------
    >>> shrunk_covariance(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), (1.0, 0.5))
    tensor([[5.0000, 1.5000],
            [1.5000, 3.0000]])
    """
    size = len(covariance)
    trace = covariance.diagonal().sum()
    off_diagonal = (covariance.sum() - trace) / max(1, size * (size - 1))
    result = covariance + shrinkage[1] * off_diagonal
    result.diagonal().add_(shrinkage[0] * trace / size - shrinkage[1] * off_diagonal)
    return result


def correlation(covariance: Tensor) -> Tensor:
    """Return R_ij = Σ_ij / √(Σ_ii Σ_jj); the identity if Σ is zero.

    Examples
    --------
    >>> correlation(torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
    tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]])
    """
    if not bool(covariance.any()):
        return torch.eye(len(covariance)).to(covariance)
    spread = covariance.diagonal().sqrt().clamp(min=torch.finfo(covariance.dtype).tiny)
    return covariance / spread / spread[:, None]


def cholesky_factor(matrix: Tensor, advice: str) -> Tensor:
    """Return the lower factor L with L Lᵀ = matrix.

    Raises
    ------
    ValueError
        If the matrix is singular to working precision; the message ends in ``advice``.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    floor: Tensor = len(matrix) * torch.finfo(matrix.dtype).eps * matrix.diagonal().max()
    if bool(info) or bool(factor.diagonal().square().min() <= floor):
        raise ValueError(f"the covariance of {len(matrix)} features is singular and cannot be inverted: {advice}")
    return factor
