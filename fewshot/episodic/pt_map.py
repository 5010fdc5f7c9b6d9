"""PT-MAP: power transform, then transport plans and class centers in turn.

    x    ← sign(x) |x|^β, to unit length, centered, to unit length     support and queries each around its center
    P    = transport plan of the queries to the classes, cost λ ‖z_n - m_k‖², class k receiving the share c_k
    m_k  ← m_k + α ( m̂_k - m_k ),   m̂_k = (S_k + Σ_n P_nk z_n) / (N_k + Σ_n P_nk)
    answer: P after the last step

with S_k and N_k the sum and number of class k's support items. The centers stay combinations a_k S_k + Σ_n b_kn z_n of
the episode's own vectors, so that every step runs on inner products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_choice, check_non_negative, check_positive
from fewshot.episodic.solvers.sinkhorn import Transport, estimate_shares, item_weights, sinkhorn
from fewshot.prototypes import one_hot

__all__ = ["PTMAP"]

# What lies closer than this to its center, in units of its distance to 0, has no direction that rounding leaves alone.
_LEAST_LENGTH = 1e-4
# Added to estimated shares: the one that generalized EM adds to its proportions.
_SHARE_FLOOR = 1e-6


class _Products(NamedTuple):
    """Of an episode: z_n·z_m, S_k·z_n (..., n_way, n_queries), ‖S_k‖² and the counts N_k (..., n_way)."""

    gram: Tensor
    cross: Tensor
    sum_squared_norms: Tensor
    counts: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PTMAP:
    """Assign queries by optimal transport to class centers that move to the items assigned.

    Parameters
    ----------
    prior : {"estimated", "balanced"} or Tensor (..., n_way)
        The classes' shares of the queries. ``balanced``, the published method, gives each class the same number: where
        that is not so, it must be wrong on the excess; fewer queries than ways cannot be so, and their shares are
        estimated. ``estimated``, ours, estimates the shares by EM, one step per
        plan. A tensor gives them, up to a factor.
    power : float
        β. Default 0.5, as in the authors' code; 1 leaves the features as they are.
    cost_scale : float
        λ, the inverse of the transport's entropy weight. Default 10, as in the authors' code.
    step_size : float
        α, in (0, 1]. Default 0.2, as in the authors' code.
    n_steps : int
        Moves of the centers. Default 20, as in the authors' code.
    tolerance : float
        Of the shares, see `fewshot.episodic.solvers.sinkhorn.sinkhorn`. Default 1e-6, as in the authors' code.

    Raises
    ------
    ValueError
        If a setting is out of range, or given shares do not fit the episode.

    Notes
    -----
    `transport` says for each episode whether the last plan has converged.

    What differs from the authors' code, and why. It reads the number of queries per class from the protocol: here that
    is ``prior``. Its marginals need not have the same total (with 76 queries they have not), and then it runs into its
    cap of 1000 steps: here they have. It stops when a whole batch has converged: here each plan does. It takes x^β,
    which is NaN for negative features: here the sign is kept, and its 1e-6 under the power is left out. Its QR
    reduction changes no inner product. The support's center is the mean of the class means, not of the items, which at
    unequal shots would lean to the larger classes. Moving the queries' mean to the support's presumes that they have
    the same shares of classes: with given shares c the queries' center is their mean less Σ_k (c_k - 1/K) p_k, the
    paper's where c is balanced; with estimated ones it is the support's center.

    Differentiable; the slope of |x|^β at 0 is taken to be 0.

    Source
    ------
    Hu, Gripon and Pateux, "Leveraging the feature distribution in transfer-based few-shot learning", ICANN 2021,
    Algorithm 1.

    Examples
    --------
    >>> episode = Episode(support=torch.eye(2), support_labels=torch.tensor([0, 1]),
    ...                   query=torch.tensor([[0.9, 0.2], [0.3, 0.8]]), class_ids=torch.tensor([0, 1]))
    >>> PTMAP()(episode).argmax(-1).tolist()
    [0, 1]
    >>> PTMAP(prior=torch.tensor([3.0, 1.0]))(episode).exp().mean(0)
    tensor([0.7500, 0.2500])
    """

    is_transductive: ClassVar[bool] = True
    prior: str | Tensor = "estimated"
    power: float = 0.5
    cost_scale: float = 10.0
    step_size: float = 0.2
    n_steps: int = 20
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if isinstance(self.prior, str):
            check_choice("prior", self.prior, ("balanced", "estimated"))
        for name in ("power", "cost_scale", "step_size", "tolerance"):
            check_positive(name, getattr(self, name))
        if self.step_size > 1:
            raise ValueError(f"step_size must be at most 1, got {self.step_size}")
        check_non_negative("n_steps", self.n_steps)

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        return self.transport(episode).log_plan

    def transport(self, episode: Episode) -> Transport:
        """Return the last transport plan, and whether it has converged."""
        shares = self._shares(episode)
        is_estimated = self._is_estimated(episode)
        products = _products(episode, self.power, shares, is_estimated)
        of_sum, of_query = products.counts.reciprocal(), torch.zeros_like(products.cross)  # a_k, b_kn
        found = None
        for step in range(self.n_steps + 1):
            scores = self.cost_scale * _minus_squared_distances(products, of_sum, of_query)
            if is_estimated is not False:
                estimate = estimate_shares(scores, shares, item_mask=episode.query_mask, floor=_SHARE_FLOOR)
                shares = _chosen(is_estimated, estimate, shares)
            v = None if found is None else found.potentials
            found = sinkhorn(scores, shares, item_mask=episode.query_mask, potentials=v, tolerance=self.tolerance)
            if step < self.n_steps:
                plan = found.log_plan.exp().mT
                plan = plan if episode.query_mask is None else plan * episode.query_mask[..., None, :]
                total = products.counts + plan.sum(-1)
                of_sum = of_sum + self.step_size * (total.reciprocal() - of_sum)
                of_query = of_query + self.step_size * (plan / total[..., None] - of_query)
        assert found is not None
        return found

    def describe(self) -> str:
        """Describe the settings in one line."""
        prior = f"{self.prior} shares" if isinstance(self.prior, str) else "given shares"
        return (
            f"{prior} of the classes, power {self.power:g}, cost times {self.cost_scale:g}, "
            f"{self.n_steps} steps of {self.step_size:g}"
        )

    def _is_estimated(self, episode: Episode) -> Tensor | bool:
        """Whether shares are estimated: of all, or, shape (..., 1), of fewer queries than ways, never balanced."""
        if isinstance(self.prior, Tensor) or self.prior == "estimated":
            return not isinstance(self.prior, Tensor)
        if episode.query_mask is None:
            return episode.n_queries < episode.n_way
        return episode.query_mask.sum(-1, keepdim=True) < episode.way_mask.sum(-1, keepdim=True)

    def _shares(self, episode: Episode) -> Tensor:
        """Return the shares to start from, shape (..., n_way); 0 for an absent way."""
        shares = episode.way_mask.to(episode.query.dtype)
        if isinstance(self.prior, Tensor):
            shares = shares * _checked(self.prior, episode).to(shares)
        return _normalized(shares)


def _chosen(is_first: Tensor | bool, first: Tensor, second: Tensor) -> Tensor:
    """Choose between two tensors, episode by episode."""
    if isinstance(is_first, bool):
        return first if is_first else second
    return torch.where(is_first, first, second)


def _normalized(shares: Tensor) -> Tensor:
    return shares / shares.sum(-1, keepdim=True)


def _checked(prior: Tensor, episode: Episode) -> Tensor:
    if prior.shape[-1:] != (episode.n_way,):
        raise ValueError(
            f"prior must give one share for each of the {episode.n_way} ways, got shape {tuple(prior.shape)}"
        )
    if not prior.is_meta and (bool((prior < 0).any()) or bool(((prior * episode.way_mask).sum(-1) <= 0).any())):
        raise ValueError(f"prior must have shares of at least 0 and a positive sum, got {prior.tolist()}")
    return prior


def _minus_squared_distances(products: _Products, of_sum: Tensor, of_query: Tensor) -> Tensor:
    """Return 2 z_n·m_k - ‖m_k‖², shape (..., n_queries, n_way): minus the squared distance up to a constant of n."""
    of_sums = of_sum[..., None] * products.cross
    inner = of_sums + of_query @ products.gram
    squared_norms = of_sum.square() * products.sum_squared_norms + (of_query * (inner + of_sums)).sum(-1)
    return (2 * inner - squared_norms[..., None]).mT


def _products(episode: Episode, power: float, shares: Tensor, is_estimated: Tensor | bool) -> _Products:
    """Transform the features; ``shares`` are the queries' shares of the classes, where they are not estimated."""
    support, support_scale = _powered(episode.support, power)
    query, query_scale = _powered(episode.query, power)
    is_member = one_hot(episode.support_labels, episode.n_way, support.dtype).mT
    counts = is_member.sum(-1).clamp(min=1)
    means = (is_member / counts[..., None] * support_scale.mT) @ support
    even = _normalized(episode.way_mask.to(means))
    center = query_center = even[..., None, :] @ means
    if is_estimated is not True:
        query_mean = (item_weights(query, episode.query_mask) * query_scale).mT @ query
        of_shares = query_mean - (shares - even)[..., None, :] @ means
        of_episode = is_estimated if isinstance(is_estimated, bool) else is_estimated[..., None]
        query_center = _chosen(of_episode, center, of_shares)
    support, support_scale = _centered(support, support_scale, center)
    query, query_scale = _centered(query, query_scale, query_center)
    sums = (is_member * support_scale.mT) @ support
    gram = (query @ query.mT) * query_scale * query_scale.mT
    return _Products(gram, (sums @ query.mT) * query_scale.mT, sums.square().sum(-1), counts)


def _powered(features: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Return sign(x) |x|^β and its inverse norms, shape (..., n_items, 1); 0 for a zero vector."""
    if power == 1:
        powered = features
    else:  # without exact zeros, at which the power is slow and its slope infinite
        magnitudes = features.abs().clamp_(min=torch.finfo(features.dtype).tiny)
        powered = magnitudes.pow_(power).mul_(features.sign())
    lengths = torch.linalg.vector_norm(powered, dim=-1, keepdim=True)
    return powered, (lengths > 0) / torch.where(lengths > 0, lengths, 1.0)


def _centered(items: Tensor, scale: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scaled items less the center and their inverse norms, shape (..., n_items, 1)."""
    centered = torch.addcmul(-center, items, scale)
    return centered, torch.linalg.vector_norm(centered, dim=-1, keepdim=True).clamp(min=_LEAST_LENGTH).reciprocal()
