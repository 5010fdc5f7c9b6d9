r"""The normal-inverse-Wishart prior: evidence, posterior, and the evidence for one cluster or two.

Σ_k ~ IW(ν, Ψ), μ_k | Σ_k ~ N(m, Σ_k/κ). For a set Z of n items with mean x̄ and scatter S,

    κ' = κ + n,  ν' = ν + n,  Ψ' = Ψ + S + (κn/κ')(x̄ - m)(x̄ - m)ᵀ,
    log h(Z) = -(nD/2) log π + lnΓ_D(ν'/2) - lnΓ_D(ν/2) + (ν/2) log|Ψ| - (ν'/2) log|Ψ'| + (D/2)(log κ - log κ').

All in float64: the ratios are small differences of large numbers.

Source: Murphy, "Conjugate Bayesian analysis of the Gaussian distribution", 2007, §9; Chang and Fisher, "Parallel
sampling of DP mixture models using sub-cluster splits", NeurIPS 2013, for the ratios, as in [DEEPDPM] and [GPC].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.statistics import ClusterStatistics, add_statistics

__all__ = ["NIWPrior", "log_marginal_likelihood", "log_merge_ratio", "log_split_ratio", "posterior"]


class NIWPrior(NamedTuple):
    """A normal-inverse-Wishart prior, or as many posteriors as there are leading dimensions.

    Attributes
    ----------
    mean : Tensor (..., n_features)
        m.
    mean_strength : Tensor (...)
        κ, positive: how many items the prior of the mean is worth.
    dof : Tensor (...)
        ν, above n_features - 1.
    scale : Tensor (..., n_features, n_features)
        Ψ, positive definite; Σ is Ψ / (ν - n_features - 1) on average.
    """

    mean: Tensor
    mean_strength: Tensor
    dof: Tensor
    scale: Tensor


def posterior(prior: NIWPrior, statistics: ClusterStatistics) -> NIWPrior:
    """Return m', κ', ν' and Ψ' of each cluster."""
    counts, means, scatters = statistics
    strength = prior.mean_strength + counts
    gap = means - prior.mean
    mean = prior.mean + (counts / strength)[..., None] * gap
    weight = prior.mean_strength * counts / strength
    scale = prior.scale + scatters + weight[..., None, None] * gap[..., :, None] * gap[..., None, :]
    return NIWPrior(mean, strength, prior.dof + counts, scale)


def log_marginal_likelihood(prior: NIWPrior, statistics: ClusterStatistics) -> Tensor:
    """Return log h(Z) of each cluster, shape (...), in nats; 0 for an empty one."""
    n_features = statistics.means.shape[-1]
    after = posterior(prior, statistics)
    return (
        -0.5 * n_features * math.log(math.pi) * statistics.counts
        + _log_normalizer(after.dof, after.scale)
        - _log_normalizer(prior.dof, prior.scale)
        + 0.5 * n_features * (prior.mean_strength.log() - after.mean_strength.log())
    )


def _log_normalizer(dof: Tensor, scale: Tensor) -> Tensor:
    """Return lnΓ_D(ν/2) - (ν/2) log|Ψ|."""
    factor: Tensor = torch.linalg.cholesky(scale)
    log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.special.multigammaln(dof / 2, scale.shape[-1]) - 0.5 * dof * log_determinant


def log_split_ratio(
    prior: NIWPrior, first: ClusterStatistics, second: ClusterStatistics, *, concentration: float = 1.0
) -> Tensor:
    """Return log H_s of each pair of clusters: the evidence that they are two and not one.

    ``log α + lnΓ(n₁) + log h(Z₁) + lnΓ(n₂) + log h(Z₂) - lnΓ(n) - log h(Z)``

    Parameters
    ----------
    prior : NIWPrior
    first, second : ClusterStatistics
        Of Z₁ and Z₂, disjoint and not empty.
    concentration : float
        α of the Dirichlet process, positive. 1 in [GPC], 10 in [DEEPDPM].

    Returns
    -------
    Tensor (...)
        Nats. Symmetric in its two sets.
    """
    both = add_statistics(first, second)
    parts = [torch.lgamma(part.counts) + log_marginal_likelihood(prior, part) for part in (first, second, both)]
    return math.log(concentration) + parts[0] + parts[1] - parts[2]


def log_merge_ratio(
    prior: NIWPrior, first: ClusterStatistics, second: ClusterStatistics, *, concentration: float = 1.0
) -> Tensor:
    """Return log H_m of each pair of clusters, exactly -log H_s: the evidence that they are one and not two."""
    return -log_split_ratio(prior, first, second, concentration=concentration)
