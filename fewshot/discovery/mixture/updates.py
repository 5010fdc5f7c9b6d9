r"""The M-step of a Gaussian mixture: the joint mode of means and covariances, with and without a prior.

With N_k = Σ_i r_ik, x̄_k and S_k the weighted counts, means and scatters, and a normal-inverse-Wishart prior
(m, κ, ν, Ψ), the joint mode is

    μ_k = m + N_k/(κ + N_k) · (x̄_k - m),
    A_k = Ψ + S_k + κN_k/(κ + N_k) · (x̄_k - m)(x̄_k - m)ᵀ,
    Σ_k = A_k / (ν + N_k + D + 2).

A form restricts Σ_k, and the same density is maximised over the rest:

==========================================  =========================================
form                                        Σ_k
==========================================  =========================================
full                                        A_k / (ν + N_k + D + 2)
diagonal                                    its diagonal
spherical                                   the mean of its diagonal
tied, one Σ ~ IW(ν, Ψ) and μ_k ~ N(m, Σ/κ)  (Ψ + Σ_k (A_k - Ψ)) / (ν + N + D + 1 + K)
low-rank                                    one step of factor analysis towards it
==========================================  =========================================

Without a prior, μ_k = x̄_k and Σ_k = S_k/N_k + ``covariance_floor`` I, as in scikit-learn. A component without rows
keeps its mean and covariance.

Source: Murphy, "Machine Learning: A Probabilistic Perspective", 2012, §11.4.2; for the low-rank form Ghahramani and
Hinton, "The EM algorithm for mixtures of factor analyzers", 1996.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.discovery.mixture.forms import FORMS, Densities, Moments
from fewshot.discovery.mixture.forms.base import ModeTarget, aligned
from fewshot.discovery.mixture.scaling import Standardization
from fewshot.discovery.niw import NIWPrior

__all__ = ["flat_prior", "standardized_prior", "updated_components"]


def flat_prior(means: Tensor) -> NIWPrior:
    """Return the improper prior whose joint mode is the maximum of the likelihood: κ = 0, ν = -(D + 2), Ψ = 0."""
    n_features = means.shape[1]
    zeros = means.new_zeros((n_features, n_features))
    return NIWPrior(zeros[0], zeros.new_zeros(()), zeros.new_tensor(-(n_features + 2.0)), zeros)


def standardized_prior(prior: NIWPrior, scaling: Standardization) -> NIWPrior:
    """Return the prior of standardized rows."""
    scale = prior.scale.double() / scaling.unit.square()
    return NIWPrior(scaling.points(prior.mean), prior.mean_strength.double(), prior.dof.double(), scale)


def updated_components(
    form: str,
    moments: Moments,
    means: Tensor,
    covariances: Tensor,
    prior: NIWPrior,
    *,
    covariance_floor: Tensor | float = 0.0,
    ready: Densities | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the means (k, d) and covariances at the joint mode, standardized.

    Parameters
    ----------
    form : str
    moments : Moments
    means, covariances : Tensor
        The last ones; a component without rows or prior keeps them.
    prior : NIWPrior
        Standardized; `flat_prior` for none.
    covariance_floor : Tensor () or float
        Added to every variance.
    ready : Densities, optional
        Those of the last E-step; the low-rank form needs them.
    """
    target, rules = _target(moments, means, prior), FORMS[form]
    shares = target.counts / (prior.mean_strength + target.counts).masked_fill(target.is_kept, 1.0)
    modes = _where(target.is_kept, means, prior.mean + shares[:, None] * target.gaps)
    spread = rules.mode(moments, target, prior, means, ready)
    spread = spread + covariance_floor * rules.identity(spread)
    return modes, _where(target.is_kept.all() if rules.is_shared else target.is_kept, covariances, spread)


def _target(moments: Moments, means: Tensor, prior: NIWPrior) -> ModeTarget:
    counts, strengths = moments.counts, prior.mean_strength + moments.counts
    averages = _where(counts <= 0, means, moments.sums / counts.masked_fill(counts <= 0, 1.0)[:, None])
    is_kept = strengths <= 0
    pulls = prior.mean_strength * counts / strengths.masked_fill(is_kept, 1.0)
    divisors = (counts + prior.dof + means.shape[1] + 2).masked_fill(is_kept, 1.0)
    return ModeTarget(averages, counts, pulls, averages - prior.mean, divisors, is_kept)


def _where(is_first: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.where(aligned(is_first, first), first, second)
