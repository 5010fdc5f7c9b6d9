"""LaplacianShot: nearest prototype, with neighbouring queries drawn to the same class.

With a_nk = ‖z_n - p_k‖² and w_nm = 1 where query m is among the nearest queries of query n, else 0, each step is

    y_n ← softmax_k( -a_nk + λ Σ_m w_nm y_mk ),      starting from softmax_k( -a_nk ).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_non_negative, check_positive
from fewshot.episodic.bd_cspn import UnitItems, class_averages, rectify, unit_items
from fewshot.prototypes import log_softmax_over_ways, softmax_over_ways, way_logits

__all__ = ["LaplacianShot", "nearest_neighbours"]


def nearest_neighbours(nearness: Tensor, n_neighbours: int, mask: Tensor | None = None) -> Tensor:
    """Return the nearest neighbours of each item.

    Parameters
    ----------
    nearness : Tensor (..., n_items, n_items)
        Row n: how near item n has the others; only its order counts.
    n_neighbours : int
        Of each item, itself not counted; fewer where there are no more. All that are as near as the last one count.
    mask : Tensor (..., n_items), bool, optional
        False marks padding, which is nobody's neighbour.

    Returns
    -------
    Tensor (..., n_items, n_items), bool
        w_nm: whether m is a neighbour of n; need not be symmetric.

    Examples
    --------
    >>> x = torch.tensor([0.0, 1.0, 3.0])
    >>> nearest_neighbours(-(x[:, None] - x).abs(), 1).long().tolist()
    [[0, 1, 0], [1, 0, 0], [0, 1, 0]]
    """
    n_items = nearness.shape[-1]
    is_out = torch.eye(n_items, dtype=torch.bool, device=nearness.device)
    if mask is not None:
        is_out = is_out | ~mask[..., None, :]
    if n_neighbours >= n_items - 1:
        return (~is_out).expand(nearness.shape)
    nearness = nearness.masked_fill(is_out, -torch.inf)
    is_near = nearness >= nearness.topk(n_neighbours).values[..., -1:]
    return is_near if mask is None else is_near & ~is_out  # where items are few, the last one is minus infinity


@dataclass(frozen=True, slots=True, eq=False)
class LaplacianShot:
    """Assign queries to the nearest prototype, regularised by the graph of the queries' neighbours.

    Parameters
    ----------
    laplacian_weight : float
        λ, the pull of each neighbour. Default 0.7: the value of [ATIM]'s configuration for mini-ImageNet at one
        shot; the authors choose it on validation classes between 0.1 and 1.5.
    n_neighbours : int
        Default 3, as in the paper.
    n_steps : int
        Default 20, as in the authors' code.
    is_rectified : bool
        Rectify the prototypes and shift the queries first, as BD-CSPN does. Default, as in the paper's tables.
    center : Tensor (n_features,), optional
        Mean feature of the base (training) classes, subtracted before the features are scaled to unit length. Without
        it they are only scaled.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Notes
    -----
    Differentiable in the features but for the graph and the pseudo-labels, which are constants.

    What differs from the authors' code, and why. It asks for the 3 nearest items with the query itself among them and
    then drops the first, so that its "3" are 2, and which one is dropped among equal items is chance: here the query
    is left out before, and equal distances count alike. It stops when the energy changes by less than a millionth:
    here the number of steps is fixed, and the steps after that point change the answer by as little. Its accuracy is
    taken after the best matching of predictions to labels, which no method may do.

    Source
    ------
    Ziko, Dolz, Granger and Ben Ayed, "Laplacian Regularized Few-Shot Learning", ICML 2020, Algorithm 1.

    Examples
    --------
    >>> episode = Episode(support=torch.eye(2), support_labels=torch.tensor([0, 1]),
    ...                   query=torch.tensor([[0.9, 0.2], [0.3, 0.8]]), class_ids=torch.tensor([0, 1]))
    >>> LaplacianShot(n_neighbours=1)(episode).argmax(-1).tolist()
    [0, 1]
    """

    is_transductive: ClassVar[bool] = True
    laplacian_weight: float = 0.7
    n_neighbours: int = 3
    n_steps: int = 20
    is_rectified: bool = True
    center: Tensor | None = None

    def __post_init__(self) -> None:
        check_non_negative("laplacian_weight", self.laplacian_weight)
        check_positive("n_neighbours", self.n_neighbours)
        check_positive("n_steps", self.n_steps)

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        support = unit_items(episode.support, self.center)
        query = unit_items(episode.query, self.center)
        is_neighbour = nearest_neighbours(_nearness(query), self.n_neighbours, episode.query_mask)
        pull = self.laplacian_weight * is_neighbour.mT.to(episode.query.dtype)  # λ w_nm, by m and n
        if self.is_rectified:
            prototypes, query = rectify(episode, support, query)
        else:
            prototypes = class_averages(support, episode)
        logits = unary = way_logits(_unary(query, prototypes), episode.way_mask if episode.is_ragged else None)
        for _ in range(self.n_steps):
            y = softmax_over_ways(logits)
            logits = unary + (y.mT @ pull).mT
        return log_softmax_over_ways(logits)

    def describe(self) -> str:
        """Describe the settings in one line."""
        prototypes = "rectified" if self.is_rectified else "plain"
        centered = "" if self.center is None else "centered on the base mean, "
        return (
            f"{centered}L2-normalised features, {prototypes} prototypes, pull {self.laplacian_weight:g} of "
            f"{self.n_neighbours} neighbours, {self.n_steps} steps"
        )


def _nearness(query: UnitItems) -> Tensor:
    """Return z_n·z_m - ½‖z_m‖², which is -½‖z_n - z_m‖² up to a constant of n, for queries that are not shifted."""
    features, scale = query.features.detach(), query.scale.detach()
    return (features @ features.mT).mul_(scale).mul_(scale.mT).sub_(0.5 * (scale > 0))


def _unary(query: UnitItems, prototypes: Tensor) -> Tensor:
    """Return -a_nk up to a constant of n, shape (..., n_queries, n_way), stored way by way."""
    return (2 * query.dot(prototypes) - prototypes.square().sum(-1, keepdim=True)).mT
