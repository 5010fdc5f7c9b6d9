"""Spherical covariances σ_k² I, stored as (k,)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.discovery.mixture.chunked_sums import Responsibilities
from fewshot.discovery.mixture.forms.base import ClosedForm, Densities, ModeTarget, Moments, Peaks
from fewshot.discovery.mixture.scaling import LEAST_VARIANCE, Standardization

__all__ = ["Spherical"]


@dataclass(frozen=True, slots=True, eq=False)
class _SphericalDensities(Peaks):
    """½β‖x‖² is taken from x·βμ + offset."""

    columns: Tensor
    offsets: Tensor
    precisions: Tensor

    def relative(self, rows: Tensor) -> Tensor:
        return torch.addmm(self.offsets, rows, self.columns).addr_(rows.square().sum(-1), self.precisions, alpha=-0.5)


class Spherical(ClosedForm):
    """Σ_k = σ_k² I; the second moment is Σ_i r_ik ‖x_i‖² / D."""

    def densities(
        self, scaling: Standardization, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype
    ) -> Densities:
        """Prepare components; D products for a row and a component."""
        variances = covariances.clamp(min=LEAST_VARIANCE)
        precisions, n_features = variances.reciprocal(), means.shape[1]
        top = Peaks.of(scaling, log_weights, n_features * variances.log(), n_features)
        offsets = top.peaks - 0.5 * precisions * means.square().sum(-1)
        columns = (precisions[:, None] * means).mT
        return _SphericalDensities(*top.shared, columns.to(dtype), offsets.to(dtype), precisions.to(dtype))

    def mean_variances(self, covariances: Tensor) -> Tensor:
        """Return σ_k²."""
        return covariances

    def second_moment(
        self, responsibilities: Responsibilities, rows: Tensor, means: Tensor, densities: Densities | None
    ) -> Tensor:
        """Return Σ_i r_ik ‖x_i‖² / D, shape (k,)."""
        return responsibilities.sum(rows.square().mean(-1, keepdim=True))[:, 0]

    def scatters(self, moments: Moments, target: ModeTarget, means: Tensor) -> Tensor:
        """Return tr(S_k) / D, not negative."""
        return super().scatters(moments, target, means).clamp(min=0)

    def outer(self, weights: Tensor, vectors: Tensor) -> Tensor:
        """Return w_k ‖v_k‖² / D."""
        return (weights[:, None] * vectors * vectors).mean(-1)

    def restricted(self, matrix: Tensor) -> Tensor:
        """Return the mean of the diagonal."""
        return matrix.diagonal().mean()
