r"""The log density of a mixture's parameters under its prior: the second term of a MAP objective.

``Σ_k log NIW(μ_k, Σ_k | m, κ, ν, Ψ) + log Dir(π | a)``

For a restricted form the density is that of the full one at the restricted Σ_k. A tied Σ is counted once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewshot.discovery.mixture.densities import densities
from fewshot.discovery.mixture.forms import FORMS
from fewshot.discovery.niw import NIWPrior

__all__ = ["log_dirichlet", "log_niw"]


def log_niw(form: str, means: Tensor, covariances: Tensor, prior: NIWPrior) -> Tensor:
    """Return the log density of all components together, float64 ().

    Notes
    -----
    tr(Ψ Σ_k⁻¹) is taken from the squared distances of the 2D points m ± l_j, with l_j the columns of Ψ's Cholesky
    factor, so that every form needs its densities alone.
    """
    mean, strength, dof, scale = (field.double() for field in prior)
    n_features = means.shape[1]
    log_determinants, distances, traces = _measures(form, means, covariances, mean, scale)
    of_means = _log_normal(log_determinants - n_features * strength.log(), strength * distances, n_features)
    of_spreads = -0.5 * (dof + n_features + 1) * log_determinants - 0.5 * traces - _log_partition(dof, scale)
    return of_means.sum() + (of_spreads[0] if FORMS[form].is_shared else of_spreads.sum())


def _measures(
    form: str, means: Tensor, covariances: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log|Σ_k|, (m - μ_k)ᵀ Σ_k⁻¹ (m - μ_k) and tr(Ψ Σ_k⁻¹), each (k,)."""
    n_features = means.shape[1]
    ready = densities(form, means.new_zeros(len(means)), means, covariances, dtype=torch.float64)
    columns: Tensor = torch.linalg.cholesky(scale).mT
    points = torch.cat([mean[None], mean + columns, mean - columns])
    distances = 2 * (ready.peaks - ready.relative(ready.scaling.rows(points)))
    log_determinants = -2 * (ready.peaks + ready.constant) - n_features * math.log(2 * math.pi)
    return log_determinants, distances[0], 0.5 * distances[1:].sum(0) - n_features * distances[0]


def _log_normal(log_determinants: Tensor, distances: Tensor, n_features: int) -> Tensor:
    return -0.5 * (n_features * math.log(2 * math.pi) + log_determinants + distances)


def _log_partition(dof: Tensor, scale: Tensor) -> Tensor:
    """Return the log of the inverse-Wishart density's normaliser."""
    n_features = len(scale)
    log_determinant: Tensor = torch.linalg.slogdet(scale).logabsdet
    log_gamma: Tensor = torch.special.multigammaln(dof / 2, n_features)
    return 0.5 * dof * (n_features * math.log(2) - log_determinant) + log_gamma


def log_dirichlet(log_weights: Tensor, concentration: float) -> Tensor:
    """Return log Dir(π | a, …, a), float64 ().

    Examples
    --------
    >>> log_dirichlet(torch.tensor([0.5, 0.5]).log(), 2.0).exp()
    tensor(1.5000, dtype=torch.float64)
    """
    k = len(log_weights)
    normalizer = math.lgamma(k * concentration) - k * math.lgamma(concentration)
    return normalizer + (concentration - 1) * log_weights.double().sum()
