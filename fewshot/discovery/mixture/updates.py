r"""The M-step of a Gaussian mixture under each form of covariance, with and without a prior.

With N_k = Σ_i r_ik, x̄_k and S_k the weighted counts, means and scatters, and a normal-inverse-Wishart prior
(m, κ, ν, Ψ), the joint mode is

    μ_k = m + N_k/(κ + N_k) · (x̄_k - m),
    A_k = Ψ + S_k + κN_k/(κ + N_k) · (x̄_k - m)(x̄_k - m)ᵀ,
    Σ_k = A_k / (ν + N_k + D + 2).

A form restricts Σ_k, and the same density is maximised over what is left:

| form | Σ_k |
|---|---|
| full | A_k / (ν + N_k + D + 2) |
| diagonal | its diagonal |
| spherical | the mean of its diagonal |
| tied, one Σ ~ IW(ν, Ψ) and μ_k ~ N(m, Σ/κ) | (Ψ + Σ_k (A_k - Ψ)) / (ν + N + D + 1 + K) |
| low-rank | one step of factor analysis towards it: it raises the objective, and does not maximise it |

Without a prior, μ_k = x̄_k and Σ_k = S_k/N_k + ``covariance_floor`` I, as in scikit-learn. A component without rows
keeps what it had.

Source: Murphy, "Machine Learning: A Probabilistic Perspective", 2012, §11.4.2; for the low-rank form Ghahramani and
Hinton, "The EM algorithm for mixtures of factor analyzers", 1996.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.mixture.chunked_sums import Shares
from fewshot.discovery.mixture.densities import Densities, LowRankDensities
from fewshot.discovery.mixture.scaling import Frame
from fewshot.discovery.niw import NIWPrior

__all__ = ["Moments", "flat_prior", "framed_prior", "second_moments", "updated_components"]


class Moments(NamedTuple):
    """What an M-step needs to know of the rows, in a frame, float64.

    Attributes
    ----------
    counts : Tensor (k,)
        N_k.
    sums : Tensor (k, d)
        Σ_i r_ik x_i.
    second : Tensor
        Σ_i r_ik ‖x_i‖² / D (k,), Σ_i r_ik x_i² (k, d), Σ_i x_i x_iᵀ (d, d), or for full covariances
        Σ_i r_ik (x_i - μ_k)(x_i - μ_k)ᵀ (k, d, d) about the last means; for the low-rank form see `_factor_moments`.
    """

    counts: Tensor
    sums: Tensor
    second: Tensor

    def at(self, form: str, index: Tensor) -> Moments:
        """Return the moments of some components."""
        return Moments(self.counts[index], self.sums[index], self.second if form == "tied" else self.second[index])


def second_moments(form: str, shares: Shares, rows: Tensor, means: Tensor, ready: Densities | None) -> Tensor:
    """Return a chunk's part of `Moments.second`; 0 for the tied form, whose second moment does not change.

    Parameters
    ----------
    form : str
    shares : Shares
    rows : Tensor (b, d)
        In the frame.
    means : Tensor (k, d)
        The last means, in the frame.
    ready : Densities or None
        Those that the shares come from; the low-rank form needs them.
    """
    if form == "spherical":
        return shares.sum(rows.square().mean(-1, keepdim=True))[:, 0]
    if form == "diagonal":
        return shares.sum(rows.square())
    if form == "full":
        return torch.stack([_scatter(rows, *shares.of(k), mean) for k, mean in enumerate(means.to(rows))])
    if form == "low-rank":
        assert isinstance(ready, LowRankDensities)
        return _factor_moments(shares, rows, means, ready)
    return rows.new_zeros((), dtype=torch.float64)


def _scatter(rows: Tensor, index: Tensor, weights: Tensor, mean: Tensor) -> Tensor:
    deviations = (rows[index] - mean).mul_(weights.sqrt()[:, None])
    return (deviations.mT @ deviations).double()


def _factor_moments(shares: Shares, rows: Tensor, means: Tensor, ready: LowRankDensities) -> Tensor:
    """Return Σ_i r_ik (x_i - μ_k)(x_i - μ_k)ᵀ V_k and Σ_i r_ik x_i², side by side (k, d, r + 1)."""
    weighted = ready.projections(rows).mul_(shares.dense()[..., None])
    products = (rows.mT @ weighted.flatten(1)).view(-1, *weighted.shape[1:]).permute(1, 0, 2).double()
    about_means = products - means[..., None] * weighted.sum(0, dtype=torch.float64)[:, None, :]
    return torch.cat([about_means, shares.sum(rows.square())[..., None]], -1)


def flat_prior(means: Tensor) -> NIWPrior:
    """Return the prior, in name, under which the joint mode is the maximum of the likelihood: κ = 0, ν = -(D + 2)."""
    n_features = means.shape[1]
    zeros = means.new_zeros((n_features, n_features))
    return NIWPrior(zeros[0], zeros.new_zeros(()), zeros.new_tensor(-(n_features + 2.0)), zeros)


def framed_prior(prior: NIWPrior, frame: Frame) -> NIWPrior:
    """Return the prior of points in a frame."""
    scale = prior.scale.double() / frame.unit.square()
    return NIWPrior(frame.points(prior.mean), prior.mean_strength.double(), prior.dof.double(), scale)


class _Target(NamedTuple):
    """What the rows ask for and how hard the prior pulls: x̄_k, N_k, κN_k/(κ + N_k), x̄_k - m, and the divisor."""

    averages: Tensor
    counts: Tensor
    pulls: Tensor
    gaps: Tensor
    divisors: Tensor
    is_kept: Tensor


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
    """Return the means (k, d) and covariances that the moments call for, all in one frame.

    Parameters
    ----------
    form : str
    moments : Moments
    means, covariances : Tensor
        The last ones; a component without rows or prior keeps them.
    prior : NIWPrior
        In the frame; `flat_prior` for none.
    covariance_floor : Tensor () or float
        Added to every variance.
    ready : Densities, optional
        Those of the last E-step; the low-rank form needs them.
    """
    target = _target(moments, means, prior)
    shares = target.counts / (prior.mean_strength + target.counts).masked_fill(target.is_kept, 1.0)
    found = _where(target.is_kept, means, prior.mean + shares[:, None] * target.gaps)
    if form == "low-rank":
        assert isinstance(ready, LowRankDensities)
        spread = _factor_step(moments, target, prior, means, ready)
    else:
        spread = _mode(form, moments, target, prior, means)
    spread = spread + covariance_floor * _identity(form, spread)
    return found, _where(target.is_kept.all() if form == "tied" else target.is_kept, covariances, spread)


def _target(moments: Moments, means: Tensor, prior: NIWPrior) -> _Target:
    counts, strengths = moments.counts, prior.mean_strength + moments.counts
    averages = _where(counts <= 0, means, moments.sums / counts.masked_fill(counts <= 0, 1.0)[:, None])
    is_kept = strengths <= 0
    pulls = prior.mean_strength * counts / strengths.masked_fill(is_kept, 1.0)
    divisors = (counts + prior.dof + means.shape[1] + 2).masked_fill(is_kept, 1.0)
    return _Target(averages, counts, pulls, averages - prior.mean, divisors, is_kept)


def _where(is_first: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.where(_aligned(is_first, first), first, second)


def _aligned(values: Tensor, like: Tensor) -> Tensor:
    """Put values (k,) in front of the trailing dimensions of ``like``; () stays as it is."""
    return values.reshape(values.shape + (1,) * (like.dim() - 1)) if values.dim() else values


def _mode(form: str, moments: Moments, target: _Target, prior: NIWPrior, means: Tensor) -> Tensor:
    """Return A_k by its divisor, restricted to the form."""
    centres = means if form == "full" else torch.zeros_like(means)
    scatters = moments.second - _outer(form, target.counts, target.averages - centres)
    if form in ("spherical", "diagonal"):
        scatters = scatters.clamp(min=0)
    total = scatters + _restricted(form, prior.scale) + _outer(form, target.pulls, target.gaps)
    return total / (_tied_divisor(target, prior) if form == "tied" else _aligned(target.divisors, total))


def _tied_divisor(target: _Target, prior: NIWPrior) -> Tensor:
    """Return ν + N + D + 1 + K, or N where no prior says how the means scatter."""
    n_means = len(target.counts) - 1 if bool(prior.mean_strength > 0) else 0
    return (target.counts.sum() + prior.dof + len(prior.scale) + 2 + n_means).clamp(min=1e-300)


def _outer(form: str, weights: Tensor, vectors: Tensor) -> Tensor:
    """Return w_k v_k v_kᵀ restricted to the form; summed over k for the tied one."""
    weighted = weights[:, None] * vectors
    if form == "spherical":
        return (weighted * vectors).mean(-1)
    if form == "diagonal":
        return weighted * vectors
    return weighted.mT @ vectors if form == "tied" else weighted[:, :, None] * vectors[:, None, :]


def _restricted(form: str, matrix: Tensor) -> Tensor:
    """Return a matrix (d, d) restricted to the form."""
    if form == "spherical":
        return matrix.diagonal().mean()
    return matrix.diagonal() if form in ("diagonal", "low-rank") else matrix


def _identity(form: str, like: Tensor) -> Tensor:
    """Return what adds to every variance of the form."""
    if form in ("spherical", "diagonal"):
        return like.new_ones(())
    if form == "low-rank":
        return torch.eye(like.shape[-1]).to(like)[-1]
    return torch.eye(like.shape[-1]).to(like)


def _factor_step(moments: Moments, target: _Target, prior: NIWPrior, means: Tensor, ready: LowRankDensities) -> Tensor:
    """Return W_k and ψ_k (k, d, r + 1) after one step of factor analysis towards A_k.

    With V and L of the last densities, n the divisor and C = A V: ``W = C (n I + Vᵀ C)⁻¹ Lᵀ`` and
    ``ψ = diag(A - C (n I + Vᵀ C)⁻¹ Cᵀ) / n``.
    """
    shift, v = target.averages - means, ready.directions
    about_averages = moments.second[..., :-1] - _outer_times(target.counts, shift, v)
    products = about_averages + prior.scale @ v + _outer_times(target.pulls, target.gaps, v)
    variances = (moments.second[..., -1] - _outer("diagonal", target.counts, target.averages)).clamp(min=0)
    variances = variances + prior.scale.diagonal() + _outer("diagonal", target.pulls, target.gaps)
    n = target.divisors[:, None, None]
    inner = n * torch.eye(v.shape[-1]).to(v) + v.mT @ products
    solved = torch.linalg.solve(inner, products.mT).mT
    noise = (variances - (solved * products).sum(-1)).clamp(min=0) / n[..., 0]
    return torch.cat([solved @ ready.core.mT, noise[..., None]], -1)


def _outer_times(weights: Tensor, vectors: Tensor, matrices: Tensor) -> Tensor:
    """Return w_k v_k v_kᵀ M_k, shape (k, d, r)."""
    return (weights[:, None] * vectors)[:, :, None] * (vectors[:, None, :] @ matrices)
