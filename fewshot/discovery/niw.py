r"""The normal-inverse-Wishart prior: its posterior, and the evidence of a cluster under it.

Σ_k ~ IW(ν, Ψ), μ_k | Σ_k ~ N(m, Σ_k/κ). For a set Z of n items with mean x̄ and scatter S,

    κ' = κ + n,  ν' = ν + n,  Ψ' = Ψ + S + (κn/κ')(x̄ - m)(x̄ - m)ᵀ,
    log h(Z) = -(nD/2) log π + lnΓ_D(ν'/2) - lnΓ_D(ν/2) + (ν/2) log|Ψ| - (ν'/2) log|Ψ'| + (D/2)(log κ - log κ').

All in float64: ratios are small differences of large numbers.

Source: Murphy, "Conjugate Bayesian analysis of the Gaussian distribution", 2007, §9; as in [DEEPDPM] and [GPC].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.statistics import ClusterStatistics

__all__ = ["NIWPrior", "log_marginal_likelihood", "posterior"]


class NIWPrior(NamedTuple):
    """A normal-inverse-Wishart prior, or a batch of posteriors.

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

    @property
    def needs_scatters(self) -> bool:
        """True: covariances differ between classes."""
        return True

    def log_evidence(self, statistics: ClusterStatistics) -> Tensor:
        """Return `log_marginal_likelihood` of each cluster, shape (...)."""
        return log_marginal_likelihood(self, statistics)


def posterior(prior: NIWPrior, statistics: ClusterStatistics) -> NIWPrior:
    """Return m', κ', ν' and Ψ' of each cluster."""
    counts, means, scatters = statistics
    if scatters is None:
        raise ValueError("the posterior of a covariance needs scatters: gather the statistics with them")
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
    log_gamma: Tensor = torch.special.multigammaln(dof / 2, scale.shape[-1])
    return log_gamma - 0.5 * dof * log_determinant
