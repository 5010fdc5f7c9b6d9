r"""TransCLIP: a Gaussian mixture over image embeddings, held to the texts and to the graph of the queries' neighbours.

With unit vectors x_n, texts' answers ŷ_n = softmax_k( s x_n·t_k ) and the graph w_nm = max(0, x_n·x_m) for the nearest
queries m of query n, else 0, each step is

    ln z_nk = λ ln ŷ_nk + (1/τ) ln N( x_n; μ_k, Σ ) + (1/2v) Σ_m ( w_nm + w_mn ) z_mk + const     a few times
    μ_k ∝ (γ/|S|) Σ_{n in S, y_n = k} x_n + (1/|Q|) Σ_{n in Q} z_nk x_n                          of length 1
    Σ   = the scatter about μ under the same weights, diagonal, one for all classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_non_negative, check_positive
from fewshot.episodic.bd_cspn import UnitItems
from fewshot.episodic.image_text import ImageText, check_cosine_columns, image_text
from fewshot.episodic.laplacian_shot import nearest_neighbours
from fewshot.prototypes import l2_normalize, log_softmax_over_ways, one_hot, softmax_over_ways, way_logits

__all__ = ["TransClip", "diagonal_gaussian_logits", "neighbour_graph"]

# Variances are kept above this share of 1 / n_features, the mean variance of a feature on the unit sphere.
_LEAST_VARIANCE = 1e-4


class _Weighted(NamedTuple):
    """Support items with their fixed weights, and queries whose weights are the assignments times ``of_query``."""

    support: UnitItems
    of_support: Tensor  # (..., n_way, n_support): γ/|S| for the item's class
    query: UnitItems
    of_query: Tensor  # (..., 1, n_queries): 1/|Q|, 0 for padding
    squares: Tensor  # (..., 1, n_features): weighted mean of x², which no assignment changes


def diagonal_gaussian_logits(query: UnitItems, means: Tensor, variances: Tensor) -> Tensor:
    """Return ln N(x_n; μ_k, diag σ²), shape (..., n_way, n_queries), up to a constant of n.

    Parameters
    ----------
    query : UnitItems
        Not shifted.
    means : Tensor (..., n_way, n_features)
    variances : Tensor (..., 1, n_features)
        Positive.
    """
    center = means.mean(-2, keepdim=True)  # any will do: a near one keeps the products small, and rounding with them
    slopes = (means - center) / variances
    return query.dot(slopes) - 0.5 * (slopes * (means + center)).sum(-1, keepdim=True)


def neighbour_graph(query: UnitItems, n_neighbours: int, query_mask: Tensor | None = None) -> Tensor:
    """Return (w + wᵀ) / 2v, shape (..., n_queries, n_queries): how strongly queries pull one another.

    Parameters
    ----------
    query : UnitItems
        Not shifted.
    n_neighbours : int
        v: neighbours of each query, itself not counted.
    query_mask : Tensor (..., n_queries), bool, optional
        False marks padding, which pulls nobody.
    """
    scaled = query.features * query.scale.mT
    cosines = scaled @ scaled.mT
    is_near = nearest_neighbours(cosines, n_neighbours, query_mask)
    w = cosines.clamp(min=0) * is_near
    if query_mask is not None:
        w = w * query_mask[..., None]
    return (w + w.mT) / (2 * n_neighbours)


@dataclass(frozen=True, slots=True)
class TransClip:
    """Classify all queries together from image embeddings, texts and a few labelled items.

    Parameters
    ----------
    n_cosines : int
        How many of the first columns of the features are image–text cosines, one for each class of the pool; the
        other columns are the image embedding. Default 0: no text at hand, and class means stand in for it, see
        `fewshot.episodic.image_text.image_text`.
    text_weight : float
        λ, the pull of the texts' answer. Default 0.5, the authors' with a support (1 without one).
    support_weight : float
        γ, the weight of all support items together against that of all queries together. The authors choose it on
        validation items among 0.1, 0.5, 1 and 10 (their settings times 50). Default 1: support and queries weigh alike.
    n_neighbours : int
        v. Default 3, as in the paper.
    softmax_scale : float
        s: multiplies the image–text cosines. Default 100, that of CLIP itself. Stand-ins take a tenth of it.
    density_temperature : float
        τ: divides the log densities. Default 50, as in the authors' code.
    n_steps : int
        Rounds of assignments, means and variances. Default 10, as in the authors' code.
    n_inner_steps : int
        Updates of the assignments in each round. Default 5, as in the authors' code.

    Raises
    ------
    ValueError
        If a setting is out of range; when called, if the columns cannot be what ``n_cosines`` says.

    Notes
    -----
    Written from the equations. Starts from the support's class means and variances of 1 / n_features. The zero-shot
    variant, which starts from the most confident queries of each class, is not here: every class of an `Episode` has a
    support item.

    What differs from the authors' code, and why. γ is a setting: theirs is chosen on labelled validation items, which a
    user of a few shots does not have. Equal distances count alike in the graph. Variances are kept from vanishing.

    Differentiable in the features but for the choice of neighbours.

    Source
    ------
    [TRANSCLIP], from its equations, with a support; weights and numbers of steps as they are known of its code.

    Examples
    --------
    >>> episode = Episode(support=torch.eye(2), support_labels=torch.tensor([0, 1]),
    ...                   query=torch.tensor([[0.9, 0.2], [0.3, 0.8]]), class_ids=torch.tensor([0, 1]))
    >>> TransClip()(episode).argmax(-1).tolist()
    [0, 1]
    """

    is_transductive: ClassVar[bool] = True
    n_cosines: int = 0
    text_weight: float = 0.5
    support_weight: float = 1.0
    n_neighbours: int = 3
    softmax_scale: float = 100.0
    density_temperature: float = 50.0
    n_steps: int = 10
    n_inner_steps: int = 5

    def __post_init__(self) -> None:
        check_cosine_columns(self.n_cosines)
        check_non_negative("text_weight", self.text_weight)
        for name in ("support_weight", "n_neighbours", "softmax_scale", "density_temperature"):
            check_positive(name, getattr(self, name))
        check_positive("n_steps", self.n_steps)
        check_positive("n_inner_steps", self.n_inner_steps)

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        parts = image_text(episode, self.n_cosines, self.softmax_scale)
        way_mask = episode.way_mask if episode.is_ragged else None
        text_logits = parts.text_logits.mT
        prior = way_logits(self.text_weight * text_logits, way_mask)
        pull = neighbour_graph(parts.query, self.n_neighbours, episode.query_mask)
        items = _weighted(parts, episode, self.support_weight)
        means, variances = _start(items)
        z = softmax_over_ways(way_logits(text_logits, way_mask))
        for step in range(self.n_steps):
            if step:
                means, variances = _m_step(items, z)
            density = diagonal_gaussian_logits(items.query, means, variances).mT / self.density_temperature
            logits = _assignment_logits(prior + density, pull, z, self.n_inner_steps)
            z = softmax_over_ways(logits)
        return log_softmax_over_ways(logits)

    def describe(self) -> str:
        """Describe the settings in one line."""
        text = f"texts from {self.n_cosines} columns of cosines" if self.n_cosines else "class means for texts"
        return (
            f"{text}, scale {self.softmax_scale:g}, text weight {self.text_weight:g}, support weight "
            f"{self.support_weight:g}, {self.n_neighbours} neighbours, densities divided by "
            f"{self.density_temperature:g}, {self.n_steps} steps of {self.n_inner_steps}"
        )


def _weighted(parts: ImageText, episode: Episode, support_weight: float) -> _Weighted:
    """Weigh the items: all support items together γ, all queries together 1."""
    is_member = one_hot(episode.support_labels, episode.n_way, parts.support.features.dtype).mT
    of_support = support_weight * is_member / is_member.sum((-2, -1), keepdim=True).clamp(min=1)
    of_query = torch.full_like(parts.query.scale, 1 / episode.n_queries)
    if episode.query_mask is not None:
        is_real = episode.query_mask[..., None, :].to(of_query)
        of_query = is_real / is_real.sum(-1, keepdim=True).clamp(min=1)
    squares = _sum_of_squares(parts.support, of_support.sum(-2, keepdim=True)) + _sum_of_squares(parts.query, of_query)
    return _Weighted(parts.support, of_support, parts.query, of_query, squares / (1 + support_weight))


def _sum_of_squares(items: UnitItems, weights: Tensor) -> Tensor:
    """Return Σ_n w_n x_n², shape (..., 1, n_features)."""
    return (weights * items.scale.square()) @ items.features.square()


def _start(items: _Weighted) -> tuple[Tensor, Tensor]:
    """Return the support's class means, of length 1, and equal variances."""
    means = l2_normalize(items.support.combine(items.of_support))
    return means, torch.full_like(means[..., :1, :], 1 / means.shape[-1])


def _m_step(items: _Weighted, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return means (..., n_way, n_features), of length 1, and the variances (..., 1, n_features) about them."""
    weights = z.mT * items.of_query
    sums = items.support.combine(items.of_support) + items.query.combine(weights)
    shares = items.of_support.sum(-1, keepdim=True) + weights.sum(-1, keepdim=True)
    means = l2_normalize(sums)
    # Σ_n w_n (x - μ)² = Σ_n w_n x² - 2 μ Σ_n w_n x + μ² Σ_n w_n, over Σ w
    excess = ((shares * means - 2 * sums) * means).sum(-2, keepdim=True) / shares.sum(-2, keepdim=True)
    return means, (items.squares + excess).clamp(min=_LEAST_VARIANCE / means.shape[-1])


def _assignment_logits(fixed: Tensor, pull: Tensor, z: Tensor, n_steps: int) -> Tensor:
    """Return the logits of z after a few updates, shape (..., n_queries, n_way)."""
    logits = fixed + (z.mT @ pull).mT
    for _ in range(n_steps - 1):
        logits = fixed + (softmax_over_ways(logits).mT @ pull).mT
    return logits
