"""Full covariances Σ_k, stored as (k, d, d)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.discovery.mixture.chunked_sums import Responsibilities
from fewshot.discovery.mixture.forms.base import ClosedForm, Densities, ModeTarget, Moments, Peaks, whitening_of
from fewshot.discovery.mixture.scaling import Standardization

__all__ = ["Full"]

# Numbers of (row, component, feature) held at a time.
_PIECE = 2**21


@dataclass(frozen=True, slots=True, eq=False)
class _FullDensities(Peaks):
    """With A_k A_kᵀ = Σ_k⁻¹, ½‖(x - μ_k) A_k‖² is taken from the peak, a few components at a time."""

    means: Tensor
    offsets: Tensor
    whitening: Tensor

    def relative(self, rows: Tensor) -> Tensor:
        size = max(1, _PIECE // max(1, rows.numel()))
        pieces = zip(torch.split(self.means, size), torch.split(self.whitening, size), strict=True)
        norms = [torch.linalg.vector_norm((rows - means[:, None]) @ whitening, dim=-1) for means, whitening in pieces]
        return self.offsets - 0.5 * torch.cat(norms).mT.square()


class Full(ClosedForm):
    """Any Σ_k; the second moment is Σ_i r_ik (x_i - μ_k)(x_i - μ_k)ᵀ about the last means."""

    def densities(
        self, scaling: Standardization, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype
    ) -> Densities:
        """Prepare components; D² products for a row and a component."""
        whitening, log_determinants = whitening_of(covariances)
        top = Peaks.of(scaling, log_weights, log_determinants, means.shape[1])
        return _FullDensities(*top.shared, means.to(dtype), top.peaks.to(dtype), whitening.to(dtype))

    def mean_variances(self, covariances: Tensor) -> Tensor:
        """Return tr(Σ_k) / D."""
        return covariances.diagonal(dim1=-2, dim2=-1).mean(-1)

    def second_moment(
        self, responsibilities: Responsibilities, rows: Tensor, means: Tensor, densities: Densities | None
    ) -> Tensor:
        """Return the scatters (k, d, d) about the last means."""
        return torch.stack([_scatter(rows, *responsibilities.of(k), mean) for k, mean in enumerate(means.to(rows))])

    def scatters(self, moments: Moments, target: ModeTarget, means: Tensor) -> Tensor:
        """Return S_k from the second moment about the last means."""
        return moments.second - self.outer(target.counts, target.averages - means)

    def outer(self, weights: Tensor, vectors: Tensor) -> Tensor:
        """Return w_k v_k v_kᵀ."""
        return (weights[:, None] * vectors)[:, :, None] * vectors[:, None, :]

    def restricted(self, matrix: Tensor) -> Tensor:
        """Return the matrix."""
        return matrix

    def identity(self, covariances: Tensor) -> Tensor:
        """Return I."""
        return torch.eye(covariances.shape[-1]).to(covariances)


def _scatter(rows: Tensor, index: Tensor, weights: Tensor, mean: Tensor) -> Tensor:
    deviations = (rows[index] - mean).mul_(weights.sqrt()[:, None])
    return (deviations.mT @ deviations).double()
