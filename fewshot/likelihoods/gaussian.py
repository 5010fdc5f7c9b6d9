r"""Gaussian classes with one isotropic precision, in two exact forms.

ln p(z|θ_k) = -½ β ‖z - θ_k‖² + const, and the M-step is θ_k = (S_k + Σ_n u_nk z_n) / N_k with S_k the support sum and
N_k = (support count) + Σ_n u_nk. The **direct** form keeps the means. The **Gram** form never does: the means are
combinations of the episode's own vectors, so every iteration can be run on their inner products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.em import EMState, hard_assignments
from fewshot.prototypes import class_counts, one_hot, prototype_logits, way_logits

__all__ = [
    "GaussianDirect",
    "GaussianGram",
    "gaussian_likelihood",
    "is_gram_cheaper",
    "with_precision",
]

# Bytes of centered queries at once when inner products are taken.
_PIECE_BYTES = {"cpu": 1 << 23, "cuda": 1 << 28}


@dataclass(frozen=True, slots=True, eq=False)
class _Gaussian:
    """Fields of both forms.

    Attributes
    ----------
    counts : Tensor (..., n_way)
        Support items of each class; 1 for an absent way, which never gets a query.
    support_squared_norm : Tensor (...)
        Σ ‖z_n‖² of the support.
    precision : Tensor (...)
        β, positive.
    query_mask, way_mask : Tensor or None
        Which queries and ways are real; None means all.
    """

    counts: Tensor
    support_squared_norm: Tensor
    precision: Tensor
    query_mask: Tensor | None
    way_mask: Tensor | None

    def _real(self, responsibilities: Tensor) -> Tensor:
        return responsibilities if self.query_mask is None else responsibilities * self.query_mask[..., None]

    def _state(self, parameters: Tensor) -> EMState:
        return EMState(parameters, torch.zeros_like(self.counts))

    def _fixed(self, sums_dot_means: Tensor, mean_squared_norms: Tensor, query_squared_norm: Tensor) -> Tensor:
        """Return -½ β ( Σ_S ‖z_n - θ_{y_n}‖² + Σ_Q ‖z_n‖² )."""
        counts = self.counts if self.way_mask is None else self.counts * self.way_mask
        scatter = self.support_squared_norm + (counts * mean_squared_norms - 2 * sums_dot_means).sum(-1)
        return -0.5 * self.precision * (scatter + query_squared_norm)


@dataclass(frozen=True, slots=True, eq=False)
class GaussianDirect(_Gaussian):
    """The direct form: ``parameters`` are the means (..., n_way, n_features).

    Attributes
    ----------
    query : Tensor (..., n_queries, n_features)
        Centered; 0 for padding.
    support_sums : Tensor (..., n_way, n_features)
        S_k, centered.
    """

    query: Tensor
    support_sums: Tensor

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
        sums_dot_means = (self.support_sums * parameters).sum(-1)
        return self._fixed(sums_dot_means, parameters.square().sum(-1), self.query_squared_norms.sum(-1))

    @property
    def query_squared_norms(self) -> Tensor:
        """‖z_n‖², shape (..., n_queries)."""
        return self.query.square().sum(-1)

    def prototype_gram(self) -> Tensor:
        """Return the inner products of the support's class means, shape (..., n_way, n_way)."""
        means = self.initial_state().parameters
        return means @ means.mT

    def residual_squares(self) -> tuple[Tensor, Tensor]:
        """Return ‖r_n‖² (..., n_queries) and Σ_nm (r_n·r_m)² (...) of queries less their nearest prototypes.

        With R the residuals as rows, the second is ‖R Rᵀ‖² = ‖Rᵀ R‖²: the smaller of the two is made.
        """
        means = self.initial_state().parameters
        nearest = self._real(hard_assignments(way_logits(self.class_logits(means), self.way_mask)))
        residual = (self.query - nearest @ means) * _debiasing(nearest, self.counts)
        is_wide = residual.shape[-1] > residual.shape[-2]
        gram = residual @ residual.mT if is_wide else residual.mT @ residual
        return residual.square().sum(-1), gram.square().sum((-2, -1))


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

    def initial_state(self) -> EMState:
        """Start from the support's class means (no query in any mean) and no prior."""
        return self._state(torch.zeros_like(self.cross))

    def m_step(self, responsibilities: Tensor, parameters: Tensor) -> Tensor:
        """Return the coefficients of the queries in the means."""
        return self._real(responsibilities)

    def class_logits(self, parameters: Tensor) -> Tensor:
        """Return β (z_n·θ_k - ½‖θ_k‖²), shape (..., n_queries, n_way)."""
        n = (self.counts + parameters.sum(-2))[..., None, :]
        from_queries = self._from_queries(parameters)
        squared_norms = self._mean_squared_norms(parameters, from_queries, n)
        return self.precision[..., None, None] * ((self.cross + from_queries) / n - 0.5 * squared_norms)

    def fixed_log_likelihood(self, parameters: Tensor) -> Tensor:
        """Return the support's log-likelihood plus -½ β Σ ‖z_n‖² of the queries, shape (...)."""
        n = (self.counts + parameters.sum(-2))[..., None, :]
        sums_dot_means = (self._sum_squared_norms + (parameters * self.cross).sum(-2)) / n.squeeze(-2)
        squared_norms = self._mean_squared_norms(parameters, self._from_queries(parameters), n).squeeze(-2)
        return self._fixed(sums_dot_means, squared_norms, self.query_squared_norms.sum(-1))

    @property
    def query_squared_norms(self) -> Tensor:
        """‖z_n‖², shape (..., n_queries)."""
        return self.gram.diagonal(dim1=-2, dim2=-1)

    def prototype_gram(self) -> Tensor:
        """Return the inner products of the support's class means, shape (..., n_way, n_way)."""
        return self.sum_gram / (self.counts[..., None, :] * self.counts[..., :, None])

    def residual_squares(self) -> tuple[Tensor, Tensor]:
        """Return ‖r_n‖² (..., n_queries) and Σ_nm (r_n·r_m)² (...) of queries less their nearest prototypes.

        With A = (z_n·p_k), P = (p_k·p_l) and H the one-hot rows of the nearest prototypes, their inner products are
        G - A Hᵀ - H Aᵀ + H P Hᵀ.
        """
        state = self.initial_state()
        nearest = self._real(hard_assignments(way_logits(self.class_logits(state.parameters), self.way_mask)))
        to_prototypes = self.cross / self.counts[..., None, :]
        half = (to_prototypes - 0.5 * nearest @ self.prototype_gram()) @ nearest.mT
        weight = _debiasing(nearest, self.counts)
        residual_gram = (self.gram - half - half.mT) * weight * weight.mT
        return residual_gram.diagonal(dim1=-2, dim2=-1), residual_gram.square().sum((-2, -1))

    @property
    def _sum_squared_norms(self) -> Tensor:
        return self.sum_gram.diagonal(dim1=-2, dim2=-1)

    def _from_queries(self, u: Tensor) -> Tensor:
        """Return Σ_m u_mk z_n·z_m, shape (..., n_queries, n_way), stored way by way."""
        return (u.mT @ self.gram).mT

    def _mean_squared_norms(self, u: Tensor, from_queries: Tensor, n: Tensor) -> Tensor:
        """Return ‖θ_k‖² = ( ‖S_k‖² + Σ_n u_nk (2 z_n·S_k + Σ_m u_mk z_n·z_m) ) / N_k², shape (..., 1, n_way)."""
        mixed = (u * torch.add(from_queries, self.cross, alpha=2)).sum(-2, keepdim=True)
        return (self._sum_squared_norms[..., None, :] + mixed) / n.square()


def gaussian_likelihood(
    episode: Episode, *, precision: Tensor | float = 1.0, n_layers: int = 10, form: str = "auto"
) -> GaussianDirect | GaussianGram:
    """Prepare an episode for generalized EM with Gaussian classes.

    The features are centered on the support's mean, which changes no result but the rounding.

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
    is_cheaper = is_gram_cheaper(episode.n_queries, episode.n_features, episode.n_way, n_layers)
    is_gram = form == "gram" or (form == "auto" and is_cheaper)
    counts = class_counts(episode.support_labels, episode.n_way, episode.query.dtype).clamp(min=1)
    precision = torch.as_tensor(precision, dtype=episode.query.dtype, device=episode.query.device)
    masks = (episode.query_mask, episode.way_mask if episode.is_ragged else None)
    if not is_gram:
        query, sums, squared_norm = _centered(
            episode.support, episode.support_labels, episode.query, episode.query_mask, n_way=episode.n_way
        )
        return GaussianDirect(counts, squared_norm, precision, *masks, query, sums)
    parts = [_inner_products(*piece, n_way=episode.n_way) for piece in _pieces(episode)]
    joined = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
    squared_norm, gram, cross, sum_gram = (tensor.reshape(episode.batch_shape + tensor.shape[1:]) for tensor in joined)
    return GaussianGram(counts, squared_norm, precision, *masks, gram, cross.mT, sum_gram)


def is_gram_cheaper(n_queries: int, n_features: int, n_way: int, n_layers: int) -> bool:
    """Choose the cheaper form by its memory traffic and multiplications.

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


def with_precision(likelihood: GaussianDirect | GaussianGram, precision: Tensor) -> GaussianDirect | GaussianGram:
    """Return the same episode with another precision, shape (...); nothing is computed anew."""
    return replace(likelihood, precision=precision)


def _debiasing(nearest: Tensor, counts: Tensor) -> Tensor:
    """Return the correction for the prototypes' sampling error: a residual's variance is 1 + 1/n of the items'."""
    return (1 + nearest @ counts.reciprocal()[..., None]).rsqrt()


def _pieces(episode: Episode) -> Iterator[tuple[Tensor, ...]]:
    """Cut a batch into pieces whose centered copy stays small: it bounds the memory, and on a CPU it stays in cache."""
    tensors = [episode.support, episode.support_labels, episode.query]
    tensors += [] if episode.query_mask is None else [episode.query_mask]
    n_leading, n_batch = len(episode.batch_shape), episode.batch_shape.numel()
    bytes_each = episode.n_queries * episode.n_features * episode.query.element_size()
    n_at_once = max(1, _PIECE_BYTES.get(episode.query.device.type, _PIECE_BYTES["cuda"]) // bytes_each)
    flat = [tensor.reshape(n_batch, *tensor.shape[n_leading:]) for tensor in tensors]
    return zip(*(torch.split(tensor, n_at_once) for tensor in flat), strict=True)


def _inner_products(
    support: Tensor, support_labels: Tensor, query: Tensor, query_mask: Tensor | None = None, *, n_way: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the support's squared norm, z_n·z_m, S_k·z_n and S_k·S_l of centered features."""
    query, sums, squared_norm = _centered(support, support_labels, query, query_mask, n_way=n_way)
    return squared_norm, query @ query.mT, sums @ query.mT, sums @ sums.mT


def _centered(
    support: Tensor, support_labels: Tensor, query: Tensor, query_mask: Tensor | None, *, n_way: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries and support sums, centered on the support's mean, and the support's squared norm; padding is 0."""
    one_hot_rows = one_hot(support_labels, n_way, query.dtype)
    sums, counts = one_hot_rows.mT @ support, one_hot_rows.sum(-2)[..., None]
    center = sums.sum(-2, keepdim=True) / counts.sum(-2, keepdim=True)
    support, query = support - center, query - center
    if query_mask is not None:
        support, query = support * one_hot_rows.sum(-1, keepdim=True), query * query_mask[..., None]
    squared_norm = torch.linalg.vector_norm(support, dim=(-2, -1)).square()
    return query, sums - counts * center, squared_norm
