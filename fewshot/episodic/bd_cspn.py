"""BD-CSPN: nearest prototype by cosine, after the queries have rectified the prototypes.

Two biases of a mean of few items are diminished: the one between support and queries, by moving all queries together;
the one inside a class, by averaging its support items with the queries that look like it.

    p_k  = mean of class k's support items                                 basic prototypes
    ξ    = mean_k p_k - mean_n z_n;   z_n ← z_n + ξ                        shift, of as many queries as ways or more
    k_n  = argmax_k cos(z_n, p_k)                                          pseudo-labels
    p'_k = Σ_x w_k(x) x,   w_k(x) ∝ exp( ε cos(x, p_k) )                   over support items and queries of class k
    answer: softmax_k ε cos(z_n, p'_k)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_non_negative, check_positive
from fewshot.em import hard_assignments
from fewshot.prototypes import log_softmax_over_ways, one_hot, way_logits

__all__ = ["BDCSPN", "Rectified", "UnitItems", "class_averages", "rectify", "unit_items"]

# What is shorter has no direction that rounding leaves alone: its cosines tend to 0. Items have length 1.
_LEAST_LENGTH = 1e-4


class UnitItems(NamedTuple):
    """Items z_n = x_n / ‖x_n‖ + ξ, without a copy of the features: all that is needed of them are products.

    Attributes
    ----------
    features : Tensor (..., n_items, n_features)
        x_n.
    scale : Tensor (..., 1, n_items)
        1 / ‖x_n‖; 0 for a zero vector.
    shift : Tensor (..., 1, n_features) or None
        ξ; None is 0.
    """

    features: Tensor
    scale: Tensor
    shift: Tensor | None = None

    def dot(self, vectors: Tensor) -> Tensor:
        """Return v_k·z_n, shape (..., n_vectors, n_items)."""
        products: Tensor = (vectors @ self.features.mT) * self.scale
        if self.shift is not None:
            products = torch.add(products, vectors @ self.shift.mT)
        return products

    def combine(self, weights: Tensor) -> Tensor:
        """Return Σ_n w_kn z_n, shape (..., n_vectors, n_features), for ``weights`` (..., n_vectors, n_items)."""
        sums: Tensor = (weights * self.scale) @ self.features
        if self.shift is not None:
            sums = torch.addcmul(sums, weights.sum(-1, keepdim=True), self.shift)
        return sums

    def cosines(self, vectors: Tensor) -> Tensor:
        """Return cos(v_k, z_n), shape (..., n_vectors, n_items); 0 for zero vectors."""
        norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp(min=_LEAST_LENGTH)
        if self.shift is None:
            return self.dot(vectors).div(norms)
        products = self.dot(torch.cat([vectors, self.shift], dim=-2))
        # ‖u + ξ‖² = ‖u‖² + 2 (u + ξ)·ξ - ‖ξ‖²
        of_shift = 2 * products[..., -1:, :] - self.shift.square().sum(-1, keepdim=True)
        lengths: Tensor = ((self.scale > 0) + of_shift).clamp(min=_LEAST_LENGTH**2).sqrt()
        return products[..., :-1, :].div(norms * lengths)


class Rectified(NamedTuple):
    """Prototypes and queries that can be compared.

    Attributes
    ----------
    prototypes : Tensor (..., n_way, n_features)
        p'_k; finite but of no meaning for an absent way.
    query : UnitItems
        Shifted by ξ.
    """

    prototypes: Tensor
    query: UnitItems


def unit_items(features: Tensor, center: Tensor | None = None) -> UnitItems:
    """Scale items to unit length, after subtracting ``center`` (n_features,); a zero vector stays zero."""
    features = features if center is None else features - center.to(features)
    lengths = torch.linalg.vector_norm(features, dim=-1)
    scale = (lengths > 0) / torch.where(lengths > 0, lengths, 1.0)
    return UnitItems(features, scale[..., None, :])


def class_averages(support: UnitItems, episode: Episode) -> Tensor:
    """Return the basic prototypes p_k, shape (..., n_way, n_features); zero for an absent way."""
    is_member = one_hot(episode.support_labels, episode.n_way, support.features.dtype).mT
    return support.combine(is_member / is_member.sum(-1, keepdim=True).clamp(min=1))


def rectify(
    episode: Episode, support: UnitItems, query: UnitItems, *, softmax_scale: float = 10.0, n_confident: int = 0
) -> Rectified:
    """Shift the queries to the support, and average each class with the queries that look like it.

    Parameters
    ----------
    episode : Episode
        Its labels and masks count, its features do not.
    support, query : UnitItems
    softmax_scale : float
        ε, see `BDCSPN`.
    n_confident : int
        Z, see `BDCSPN`.

    Returns
    -------
    Rectified

    Notes
    -----
    The pseudo-labels are hard: differentiable in the features as long as these do not change.

    Source
    ------
    Liu, Song and Qin, "Prototype Rectification for Few-Shot Learning", ECCV 2020, Section 3.
    """
    basic = class_averages(support, episode)
    query = query._replace(shift=_shift(basic, query, episode))
    of_support, of_query = support.cosines(basic), query.cosines(basic)
    is_support = one_hot(episode.support_labels, episode.n_way, torch.bool).mT
    is_member = torch.cat([is_support, _pseudo_members(of_query, episode, n_confident)], dim=-1)
    scores = softmax_scale * torch.cat([of_support, of_query], dim=-1)
    # An absent way has no member: the lowest finite number instead of minus infinity keeps its weights finite.
    weights = scores.masked_fill(~is_member, torch.finfo(scores.dtype).min).softmax(-1)
    to_support, to_query = torch.tensor_split(weights, (of_support.shape[-1],), dim=-1)
    return Rectified(support.combine(to_support) + query.combine(to_query), query)


def _shift(basic: Tensor, query: UnitItems, episode: Episode) -> Tensor | None:
    """Return ξ, shape (..., 1, n_features): mean of the real ways' prototypes minus mean of the real queries.

    None, or 0 for an episode of a padded batch, where there are fewer queries than ways.
    """
    if episode.query_mask is None:
        if episode.n_queries < episode.n_way:
            return None
        weights = torch.full_like(query.scale, 1 / episode.n_queries)
        return basic.mean(-2, keepdim=True) - query.combine(weights)
    is_real = episode.query_mask[..., None, :].to(basic.dtype)
    n_queries, n_way = is_real.sum(-1, keepdim=True), episode.way_mask.sum(-1)[..., None, None]
    shift = basic.sum(-2, keepdim=True) / n_way - query.combine(is_real / n_queries.clamp(min=1))
    return shift * (n_queries >= n_way)


def _pseudo_members(cosines: Tensor, episode: Episode, n_confident: int) -> Tensor:
    """Return the queries assigned to each way, shape (..., n_way, n_queries), bool."""
    if episode.is_ragged:
        cosines = cosines.masked_fill(~episode.way_mask[..., None], -torch.inf)
    is_member = hard_assignments(cosines.mT).mT > 0
    if episode.query_mask is not None:
        is_member = is_member & episode.query_mask[..., None, :]
    if 0 < n_confident < episode.n_queries:
        confidence = cosines.masked_fill(~is_member, -torch.inf)
        is_member = is_member & (confidence >= confidence.topk(n_confident).values[..., -1:])
    return is_member


@dataclass(frozen=True, slots=True, eq=False)
class BDCSPN:
    """Classify by the cosine to prototypes that the queries have rectified.

    Parameters
    ----------
    softmax_scale : float
        ε: multiplies the cosines, in the weights and in the answer. Default 10, as in the paper.
    n_confident : int
        Z: queries that each class takes, at most; the ones most like it. 0, the default, takes every query, as the two
        public implementations do ([ATIM], easyfsl); the paper takes the most confident ones.
    center : Tensor (n_features,), optional
        Mean feature of the base (training) classes, subtracted before the features are scaled to unit length. Without
        it they are only scaled.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Notes
    -----
    The shift assumes that support and queries have the same classes in the same shares. Where they do not, it moves
    the queries away from their prototypes. Fewer queries than ways cannot have the same shares: they are not shifted.
    One query, shifted, would lie on the mean of the prototypes, whatever it is. Each class is still averaged with the
    queries that look like it.

    What differs from public code, and why. [ATIM] averages its members without dividing by their weights and
    then measures Euclidean distances, so that a class of unsure members gets a short prototype: here the weights sum
    to 1, as in the paper. easyfsl leaves ε out of the weights. Both shift the queries to make the prototypes, and
    classify the queries where they were before: here they stay shifted. ξ is the difference to the mean of the
    prototypes, not of the support items, which at unequal shots would lean to the larger classes.

    Source
    ------
    Liu, Song and Qin, "Prototype Rectification for Few-Shot Learning", ECCV 2020, Section 3; the authors have no
    public code.

    Examples
    --------
    >>> episode = Episode(support=torch.eye(2), support_labels=torch.tensor([0, 1]),
    ...                   query=torch.tensor([[0.9, 0.2], [0.3, 0.8]]), class_ids=torch.tensor([0, 1]))
    >>> BDCSPN()(episode).argmax(-1).tolist()
    [0, 1]
    """

    is_transductive: ClassVar[bool] = True
    softmax_scale: float = 10.0
    n_confident: int = 0
    center: Tensor | None = None

    def __post_init__(self) -> None:
        check_positive("softmax_scale", self.softmax_scale)
        check_non_negative("n_confident", self.n_confident)

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        support = unit_items(episode.support, self.center)
        query = unit_items(episode.query, self.center)
        prototypes, query = rectify(
            episode, support, query, softmax_scale=self.softmax_scale, n_confident=self.n_confident
        )
        logits = self.softmax_scale * query.cosines(prototypes).mT
        return log_softmax_over_ways(way_logits(logits, episode.way_mask if episode.is_ragged else None))

    def describe(self) -> str:
        """Describe the settings in one line."""
        centered = "" if self.center is None else "centered on the base mean, "
        taken = f"the {self.n_confident} most confident" if self.n_confident else "all"
        return f"{centered}L2-normalised features, cosines times {self.softmax_scale:g}, {taken} queries of each class"
