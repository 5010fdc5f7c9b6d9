r"""Gaussian classes with one isotropic precision, in two exact forms.

ln p(z|θ_k) = -½ β ‖z - θ_k‖² + const, and the M-step is θ_k = (S_k + Σ_n u_nk z_n) / N_k with S_k the support sum and
N_k = (support count) + Σ_n u_nk. The **direct** form keeps the means. The **Gram** form never does: the means are
combinations of the episode's own vectors, so every iteration can be run on their inner products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from episodes import Episode
from fewshot.checks import check_choice
from fewshot.em import EMState, hard_assignments
from fewshot.prototypes import class_counts, class_sums, prototype_logits, way_logits

__all__ = [
    "GaussianDirect",
    "GaussianGram",
    "effective_variance",
    "gaussian_likelihood",
    "is_gram_cheaper",
    "with_precision",
]


@dataclass(frozen=True, slots=True, eq=False)
class _Gaussian:
    """What both forms keep.

    Attributes
    ----------
    counts : Tensor (..., n_way)
        Support items of each class; 1 for an absent way, which never gets a query.
    squared_norms : Tensor (..., n_queries)
        ‖z_n‖² of the queries; 0 for padding.
    support_squared_norm : Tensor (...)
        Σ ‖z_n‖² of the support.
    precision : Tensor (...)
        β, positive.
    query_mask, way_mask : Tensor or None
        Which queries and ways are real; None means all.
    """

    counts: Tensor
    squared_norms: Tensor
    support_squared_norm: Tensor
    precision: Tensor
    query_mask: Tensor | None
    way_mask: Tensor | None

    def _real(self, responsibilities: Tensor) -> Tensor:
        return responsibilities if self.query_mask is None else responsibilities * self.query_mask[..., None]

    def _state(self, parameters: Tensor) -> EMState:
        return EMState(parameters, torch.zeros_like(self.counts))


@dataclass(frozen=True, slots=True, eq=False)
class GaussianDirect(_Gaussian):
    """The direct form: ``parameters`` are the means (..., n_way, n_features).

    Attributes
    ----------
    query : Tensor (..., n_queries, n_features)
    support_sums : Tensor (..., n_way, n_features)
    """

    query: Tensor
    support_sums: Tensor

    def residual_gram(self) -> Tensor:
        """Return the inner products of the queries' residuals to their nearest prototypes, shape (..., q, q)."""
        means = self.initial_state().parameters
        nearest = self._real(hard_assignments(way_logits(self.class_logits(means), self.way_mask)))
        residual = self.query - nearest @ means
        return _unbiased(residual @ residual.mT, nearest, self.counts)

    def initial_state(self) -> EMState:
        """Start from the support's class means and no prior."""
        return self._state(self.support_sums / self.counts[..., None])

    def m_step(self, responsibilities: Tensor, parameters: Tensor) -> Tensor:
        """Return θ_k = (S_k + Σ_n u_nk z_n) / N_k, shape (..., n_way, n_features)."""
        u = self._real(responsibilities)
        return (self.support_sums + u.mT @ self.query) / (self.counts + u.sum(-2))[..., None]

    def class_logits(self, parameters: Tensor) -> Tensor:
        """Return β (z_n·θ_k - ½‖θ_k‖²), shape (..., n_queries, n_way)."""
        return self.precision[..., None, None] * prototype_logits(self.query, parameters)

    def fixed_log_likelihood(self, parameters: Tensor) -> Tensor:
        """Return the support's log-likelihood plus -½ β Σ ‖z_n‖² of the queries, shape (...)."""
        return _fixed_log_likelihood(self, (self.support_sums * parameters).sum(-1), parameters.square().sum(-1))


@dataclass(frozen=True, slots=True, eq=False)
class GaussianGram(_Gaussian):
    """The Gram form: ``parameters`` are the responsibilities (..., n_queries, n_way) that the means are made of.

    Attributes
    ----------
    gram : Tensor (..., n_queries, n_queries)
        z_n·z_m.
    cross : Tensor (..., n_queries, n_way)
        z_n·S_k.
    sum_gram : Tensor (..., n_way, n_way)
        S_k·S_l.
    """

    gram: Tensor
    cross: Tensor
    sum_gram: Tensor

    @property
    def sum_squared_norms(self) -> Tensor:
        """‖S_k‖², shape (..., n_way)."""
        return self.sum_gram.diagonal(dim1=-2, dim2=-1)

    def residual_gram(self) -> Tensor:
        """Return the inner products of the queries' residuals to their nearest prototypes, shape (..., q, q).

        With A = (z_n·p_k), P = (p_k·p_l) and H the one-hot rows of the nearest prototypes, they are
        G - A Hᵀ - H Aᵀ + H P Hᵀ.
        """
        state = self.initial_state()
        nearest = self._real(hard_assignments(way_logits(self.class_logits(state.parameters), self.way_mask)))
        to_prototypes = self.cross / self.counts[..., None, :]
        among_prototypes = self.sum_gram / (self.counts[..., None, :] * self.counts[..., :, None])
        half = (to_prototypes - 0.5 * nearest @ among_prototypes) @ nearest.mT
        return _unbiased(self.gram - half - half.mT, nearest, self.counts)

    def initial_state(self) -> EMState:
        """Start from the support's class means (no query in any mean) and no prior."""
        return self._state(torch.zeros_like(self.cross))

    def m_step(self, responsibilities: Tensor, parameters: Tensor) -> Tensor:
        """Return the coefficients of the queries in the means."""
        return self._real(responsibilities)

    def class_logits(self, parameters: Tensor) -> Tensor:
        """Return β (z_n·θ_k - ½‖θ_k‖²), shape (..., n_queries, n_way)."""
        n = (self.counts + parameters.sum(-2))[..., None, :]
        from_queries = self.gram @ parameters
        squared_norms = self._mean_squared_norms(parameters, from_queries, n)
        return self.precision[..., None, None] * ((self.cross + from_queries) / n - 0.5 * squared_norms)

    def fixed_log_likelihood(self, parameters: Tensor) -> Tensor:
        """Return the support's log-likelihood plus -½ β Σ ‖z_n‖² of the queries, shape (...)."""
        n = (self.counts + parameters.sum(-2))[..., None, :]
        sums_dot_means = (self.sum_squared_norms + (parameters * self.cross).sum(-2)) / n.squeeze(-2)
        squared_norms = self._mean_squared_norms(parameters, self.gram @ parameters, n).squeeze(-2)
        return _fixed_log_likelihood(self, sums_dot_means, squared_norms)

    def _mean_squared_norms(self, u: Tensor, from_queries: Tensor, n: Tensor) -> Tensor:
        """Return ‖θ_k‖² = ( ‖S_k‖² + Σ_n u_nk (2 z_n·S_k + Σ_m u_mk z_n·z_m) ) / N_k², shape (..., 1, n_way)."""
        mixed = (u * torch.add(from_queries, self.cross, alpha=2)).sum(-2, keepdim=True)
        return (self.sum_squared_norms[..., None, :] + mixed) / n.square()


def gaussian_likelihood(
    episode: Episode, *, precision: Tensor | float = 1.0, n_layers: int = 10, form: str = "auto"
) -> GaussianDirect | GaussianGram:
    """Prepare an episode for generalized EM with Gaussian classes.

    The features are centred on the support's mean, which changes no result but the rounding.

    Parameters
    ----------
    episode : Episode
    precision : Tensor (...) or float
        β = s², positive: the inverse of the within-class variance per dimension.
    n_layers : int
        Layers that will be run, for the choice of the form.
    form : {"auto", "direct", "gram"}
        ``auto`` takes the cheaper one, see `is_gram_cheaper`. Both give the same answer.

    Raises
    ------
    ValueError
        If the form is unknown.
    """
    check_choice("form", form, ("auto", "direct", "gram"))
    is_real = None if not episode.is_ragged else (episode.support_labels >= 0)[..., None]
    n_real = episode.support.shape[-2] if is_real is None else is_real.sum(-2, keepdim=True)
    support = episode.support if is_real is None else episode.support * is_real
    center = support.sum(-2, keepdim=True) / n_real
    support = support - center if is_real is None else (support - center) * is_real
    query = episode.query - center
    if episode.query_mask is not None:
        query = query * episode.query_mask[..., None]
    sums = class_sums(support, episode.support_labels, episode.n_way)
    counts = class_counts(episode.support_labels, episode.n_way, query.dtype).clamp(min=1)
    shared: dict[str, Any] = {
        "counts": counts,
        "squared_norms": query.square().sum(-1),
        "support_squared_norm": support.square().sum((-2, -1)),
        "precision": torch.as_tensor(precision, dtype=query.dtype, device=query.device),
        "query_mask": episode.query_mask,
        "way_mask": episode.way_mask if episode.is_ragged else None,
    }
    if form == "direct" or (
        form == "auto" and not is_gram_cheaper(episode.n_queries, episode.n_features, episode.n_way, n_layers)
    ):
        return GaussianDirect(**shared, query=query, support_sums=sums)
    return GaussianGram(**shared, gram=query @ query.mT, cross=query @ sums.mT, sum_gram=sums @ sums.mT)


def is_gram_cheaper(n_queries: int, n_features: int, n_way: int, n_layers: int) -> bool:
    """Decide between the two forms by what they read and multiply.

    A direct layer reads the queries twice and makes 2·q·k·d multiply-adds; a Gram layer reads the Gram matrix once and
    makes q²·k; making the Gram matrix takes q²·d. Eight multiply-adds cost about as much as one number read.

    Examples
    --------
    >>> is_gram_cheaper(75, 640, 5, 10), is_gram_cheaper(5000, 64, 5, 10)
    (True, False)
    """
    q, d, k = n_queries, n_features, n_way
    direct = n_layers * (2 * q * d + 2 * q * k * d / 8)
    gram = 2 * q * d + q * q * d / 8 + n_layers * (q * q + q * q * k / 8)
    return gram < direct


def effective_variance(likelihood: GaussianDirect | GaussianGram, n_features: int) -> Tensor:
    """Measure an episode's own unit of scale: tr(C²) / tr(C), with C the covariance of items around their class means.

    The variance that a Gaussian with one precision should have in the directions where the items vary: C's mean
    eigenvalue, weighted by the eigenvalues themselves. Estimated from the residuals of the queries to their nearest
    prototypes, so that it exists at one shot; tr(C²) from pairs of different queries, without bias, and never below
    tr(C)² / n_features, its least possible value.

    Parameters
    ----------
    likelihood : GaussianDirect or GaussianGram
        Its precision does not matter.
    n_features : int

    Returns
    -------
    Tensor (...)
        Positive; 1 if all residuals are zero. Scaling the features by c scales it by c².

    Notes
    -----
    Ours, not in the paper, whose scale is that of one backbone's raw features. Of the units tried (mean squared
    distance to the class mean; variance along the lines between prototypes; this one), this is the one in which
    the precisions learned separately on five feature sets and three shot counts agree: within a factor of 3,
    against 6 and 17.
    """
    gram = likelihood.residual_gram()
    squared_norms = gram.diagonal(dim1=-2, dim2=-1)
    n = squared_norms.new_tensor(gram.shape[-1])
    if likelihood.query_mask is not None:
        n = likelihood.query_mask.sum(-1).to(gram.dtype)
    trace = squared_norms.sum(-1) / n
    of_pairs = gram.square().sum((-2, -1)) - squared_norms.square().sum(-1)
    variance = torch.maximum(of_pairs / (n * (n - 1)).clamp(min=1) / trace, trace / n_features)
    return torch.where(trace > 0, variance, 1.0)


def with_precision(likelihood: GaussianDirect | GaussianGram, precision: Tensor) -> GaussianDirect | GaussianGram:
    """Return the same episode with another precision, shape (...); nothing is computed anew."""
    return replace(likelihood, precision=precision)


def _unbiased(residual_gram: Tensor, nearest: Tensor, counts: Tensor) -> Tensor:
    """Undo what the sampling error of the prototypes adds: a residual's variance is 1 + 1/n of the items'."""
    weight = (1 + nearest @ counts.reciprocal()[..., None]).rsqrt()
    return residual_gram * weight * weight.mT


def _fixed_log_likelihood(likelihood: _Gaussian, sums_dot_means: Tensor, mean_squared_norms: Tensor) -> Tensor:
    """Return -½ β ( Σ_S ‖z_n - θ_{y_n}‖² + Σ_Q ‖z_n‖² )."""
    counts = likelihood.counts
    if likelihood.way_mask is not None:
        counts = counts * likelihood.way_mask
    scatter = likelihood.support_squared_norm + (counts * mean_squared_norms - 2 * sums_dot_means).sum(-1)
    return -0.5 * likelihood.precision * (scatter + likelihood.squared_norms.sum(-1))
