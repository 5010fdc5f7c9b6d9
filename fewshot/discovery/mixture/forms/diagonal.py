"""Diagonal covariances diag(σ_k²), stored as (k, d)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.discovery.mixture.chunked_sums import Responsibilities
from fewshot.discovery.mixture.forms.base import ClosedForm, Densities, ModeTarget, Moments, Peaks
from fewshot.discovery.mixture.scaling import LEAST_VARIANCE, Standardization

__all__ = ["Diagonal", "DiagonalDensities"]


@dataclass(frozen=True, slots=True, eq=False)
class DiagonalDensities(Peaks):
    """½ x²·β is taken from x·βμ + offset."""

    columns: Tensor
    offsets: Tensor
    precisions: Tensor

    @classmethod
    def at(cls, top: Peaks, means: Tensor, precisions: Tensor, dtype: torch.dtype) -> DiagonalDensities:
        """Prepare components of given heights, means (k, d) and precisions (k, d)."""
        weighted = precisions * means
        offsets = top.peaks - 0.5 * (weighted * means).sum(-1)
        return cls(*top.shared, weighted.mT.to(dtype), offsets.to(dtype), precisions.mT.to(dtype))

    def relative(self, rows: Tensor) -> Tensor:
        """Return weighted log densities less the constant, see `Densities`."""
        return torch.addmm(self.offsets, rows, self.columns).addmm_(rows.square(), self.precisions, alpha=-0.5)


class Diagonal(ClosedForm):
    """Σ_k = diag(σ_k²); the second moment is Σ_i r_ik x_i²."""

    def densities(
        self, scaling: Standardization, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype
    ) -> Densities:
        """Prepare components; 2D products for a row and a component."""
        variances = covariances.clamp(min=LEAST_VARIANCE)
        top = Peaks.of(scaling, log_weights, variances.log().sum(-1), means.shape[1])
        return DiagonalDensities.at(top, means, variances.reciprocal(), dtype)

    def mean_variances(self, covariances: Tensor) -> Tensor:
        """Return the mean of σ_k²."""
        return covariances.mean(-1)

    def second_moment(
        self, responsibilities: Responsibilities, rows: Tensor, means: Tensor, densities: Densities | None
    ) -> Tensor:
        """Return Σ_i r_ik x_i², shape (k, d)."""
        return responsibilities.sum(rows.square())

    def scatters(self, moments: Moments, target: ModeTarget, means: Tensor) -> Tensor:
        """Return the diagonal of S_k, not negative."""
        return super().scatters(moments, target, means).clamp(min=0)

    def outer(self, weights: Tensor, vectors: Tensor) -> Tensor:
        """Return w_k v_k²."""
        return weights[:, None] * vectors * vectors

    def restricted(self, matrix: Tensor) -> Tensor:
        """Return the diagonal."""
        return matrix.diagonal()
