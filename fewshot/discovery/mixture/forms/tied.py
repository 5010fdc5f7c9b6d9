"""One covariance Σ of all components, stored as (d, d)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.discovery.mixture.chunked_sums import Responsibilities
from fewshot.discovery.mixture.forms.base import ClosedForm, Densities, ModeTarget, Peaks, whitening_of
from fewshot.discovery.mixture.scaling import Standardization
from fewshot.discovery.niw import NIWPrior

__all__ = ["Tied"]


@dataclass(frozen=True, slots=True, eq=False)
class _TiedDensities(Peaks):
    """With A Aᵀ = Σ⁻¹, ½‖xA‖² is taken from xA·μA + offset."""

    columns: Tensor
    offsets: Tensor
    whitening: Tensor

    def relative(self, rows: Tensor) -> Tensor:
        whitened = rows @ self.whitening
        logits = torch.addmm(self.offsets, whitened, self.columns)
        return logits.sub_(whitened.square().sum(-1, keepdim=True), alpha=0.5)


class Tied(ClosedForm):
    """Σ_k = Σ ~ IW(ν, Ψ) with μ_k ~ N(m, Σ/κ); the second moment Σ_i x_i x_iᵀ does not depend on responsibilities."""

    is_shared = True

    def densities(
        self, scaling: Standardization, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype
    ) -> Densities:
        """Prepare components; D products for a row and a component, after one whitening of the row."""
        whitening, log_determinant = whitening_of(covariances)
        top = Peaks.of(scaling, log_weights, log_determinant, means.shape[1])
        whitened = means @ whitening
        offsets = top.peaks - 0.5 * whitened.square().sum(-1)
        return _TiedDensities(*top.shared, whitened.mT.to(dtype), offsets.to(dtype), whitening.to(dtype))

    def mean_variances(self, covariances: Tensor) -> Tensor:
        """Return tr(Σ) / D, shape ()."""
        return covariances.diagonal(dim1=-2, dim2=-1).mean(-1)

    def second_moment(
        self, responsibilities: Responsibilities, rows: Tensor, means: Tensor, densities: Densities | None
    ) -> Tensor:
        """Return 0: the second moment is the scatter of all rows, computed once."""
        return rows.new_zeros((), dtype=torch.float64)

    def outer(self, weights: Tensor, vectors: Tensor) -> Tensor:
        """Return Σ_k w_k v_k v_kᵀ."""
        return (weights[:, None] * vectors).mT @ vectors

    def restricted(self, matrix: Tensor) -> Tensor:
        """Return the matrix."""
        return matrix

    def divisors(self, target: ModeTarget, prior: NIWPrior) -> Tensor:
        """Return ν + N + D + 1 + K, or N without a prior of the means."""
        n_means = len(target.counts) - 1 if bool(prior.mean_strength > 0) else 0
        return (target.counts.sum() + prior.dof + len(prior.scale) + 2 + n_means).clamp(min=1e-300)

    def identity(self, covariances: Tensor) -> Tensor:
        """Return I."""
        return torch.eye(covariances.shape[-1]).to(covariances)
