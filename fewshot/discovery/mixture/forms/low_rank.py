"""Low-rank covariances W_k W_kᵀ + diag(ψ_k) of factor analysis, stored as (k, d, r + 1): W_k, then ψ_k."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.discovery.mixture.cholesky import cholesky_with_jitter, log_determinants
from fewshot.discovery.mixture.chunked_sums import Responsibilities
from fewshot.discovery.mixture.forms.base import CovarianceForm, Densities, ModeTarget, Moments, Peaks
from fewshot.discovery.mixture.forms.diagonal import DiagonalDensities
from fewshot.discovery.mixture.scaling import LEAST_VARIANCE, Standardization
from fewshot.discovery.niw import NIWPrior

__all__ = ["LowRank"]


@dataclass(frozen=True, slots=True, eq=False)
class _LowRankDensities(Peaks):
    """½‖Vᵀ(x - μ)‖² is added to the density of diag(ψ), with V = Ψ⁻¹ W L⁻ᵀ and L Lᵀ = I + Wᵀ Ψ⁻¹ W.

    Attributes
    ----------
    core : Tensor (k, r, r)
        L, float64.
    directions : Tensor (k, d, r)
        V, standardized, float64.
    projection_columns, projection_offsets : Tensor (d, k · r), (k · r,)
        V for one product with rows.
    """

    noise: DiagonalDensities
    core: Tensor
    directions: Tensor
    projection_columns: Tensor
    projection_offsets: Tensor

    def relative(self, rows: Tensor) -> Tensor:
        return self.noise.relative(rows).add_(self.projections(rows).square().sum(-1), alpha=0.5)

    def projections(self, rows: Tensor) -> Tensor:
        """Return V_kᵀ (x - μ_k), shape (n, k, r)."""
        k, _, r = self.directions.shape
        return torch.addmm(self.projection_offsets, rows, self.projection_columns).view(len(rows), k, r)


class LowRank(CovarianceForm):
    """Σ_k = W_k W_kᵀ + diag(ψ_k).

    The second moment is Σ_i r_ik (x_i - μ_k)(x_i - μ_k)ᵀ V_k and Σ_i r_ik x_i², side by side (k, d, r + 1). A step is
    one of factor analysis: it raises the objective, and does not maximise it.
    """

    def densities(
        self, scaling: Standardization, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype
    ) -> Densities:
        """Prepare components by Woodbury's identity; (r + 2) D products for a row and a component."""
        factors, noise = covariances[..., :-1], covariances[..., -1].clamp(min=LEAST_VARIANCE)
        scaled = factors / noise[..., None]
        core = cholesky_with_jitter(torch.eye(factors.shape[-1]).to(factors) + factors.mT @ scaled)
        top = Peaks.of(scaling, log_weights, noise.log().sum(-1) + log_determinants(core), means.shape[1])
        directions = torch.linalg.solve_triangular(core, scaled.mT, upper=False).mT
        columns = directions.permute(1, 0, 2).reshape(means.shape[1], -1)
        offsets = -(means[:, None, :] @ directions).flatten()
        base = DiagonalDensities.at(top, means, noise.reciprocal(), dtype)
        return _LowRankDensities(*top.shared, base, core, directions, columns.to(dtype), offsets.to(dtype))

    def mean_variances(self, covariances: Tensor) -> Tensor:
        """Return (‖W_k‖² + Σ ψ_k) / D."""
        return (covariances[..., :-1].square().sum(-1) + covariances[..., -1]).mean(-1)

    def second_moment(
        self, responsibilities: Responsibilities, rows: Tensor, means: Tensor, densities: Densities | None
    ) -> Tensor:
        """Return the products with V_k and the second moments of features, shape (k, d, r + 1)."""
        assert isinstance(densities, _LowRankDensities)
        weighted = densities.projections(rows).mul_(responsibilities.dense()[..., None])
        products = (rows.mT @ weighted.flatten(1)).view(-1, *weighted.shape[1:]).permute(1, 0, 2).double()
        about_means = products - means[..., None] * weighted.sum(0, dtype=torch.float64)[:, None, :]
        return torch.cat([about_means, responsibilities.sum(rows.square())[..., None]], -1)

    def mode(
        self, moments: Moments, target: ModeTarget, prior: NIWPrior, means: Tensor, densities: Densities | None
    ) -> Tensor:
        """Return W_k and ψ_k (k, d, r + 1) after one step of factor analysis towards A_k.

        With V and L of the last densities, n the divisor and C = A V: ``W = C (n I + Vᵀ C)⁻¹ Lᵀ`` and
        ``ψ = diag(A - C (n I + Vᵀ C)⁻¹ Cᵀ) / n``.
        """
        assert isinstance(densities, _LowRankDensities)
        shift, v = target.averages - means, densities.directions
        about_averages = moments.second[..., :-1] - _outer_times(target.counts, shift, v)
        products = about_averages + prior.scale @ v + _outer_times(target.pulls, target.gaps, v)
        variances = (moments.second[..., -1] - _squares(target.counts, target.averages)).clamp(min=0)
        variances = variances + prior.scale.diagonal() + _squares(target.pulls, target.gaps)
        n = target.divisors[:, None, None]
        inner = n * torch.eye(v.shape[-1]).to(v) + v.mT @ products
        solved = torch.linalg.solve(inner, products.mT).mT
        noise = (variances - (solved * products).sum(-1)).clamp(min=0) / n[..., 0]
        return torch.cat([solved @ densities.core.mT, noise[..., None]], -1)

    def identity(self, covariances: Tensor) -> Tensor:
        """Return 1 for ψ and 0 for W."""
        return torch.eye(covariances.shape[-1]).to(covariances)[-1]

    def scaled(self, covariances: Tensor, unit: Tensor) -> Tensor:
        """Return W_k / unit and ψ_k / unit², float64."""
        wide = covariances.double()
        return torch.cat([wide[..., :-1] / unit, wide[..., -1:] / unit.square()], -1)

    def numbers_per_row(self, means: Tensor, covariances: Tensor) -> int:
        """Return how many numbers an E-step holds for a row at a time."""
        return max(means.shape[1], len(means) * covariances.shape[-1])


def _squares(weights: Tensor, vectors: Tensor) -> Tensor:
    """Return w_k v_k²."""
    return weights[:, None] * vectors * vectors


def _outer_times(weights: Tensor, vectors: Tensor, matrices: Tensor) -> Tensor:
    """Return w_k v_k v_kᵀ M_k, shape (k, d, r)."""
    return (weights[:, None] * vectors)[:, :, None] * (vectors[:, None, :] @ matrices)
