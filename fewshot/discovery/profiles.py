"""Profile of each found class: its most typical rows, its nearest known class, and its origin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.prototypes import l2_normalize

__all__ = ["Step", "balanced_rows", "distance_to_mean", "first_of_each", "lineages", "mean_directions", "nearest_known",
           "place_beside"]  # fmt: skip

_CHUNK = 1024


class Step(NamedTuple):
    """One step in the making of a class.

    Attributes
    ----------
    round : int
    kind : str
        "shed", "split" or "merge".
    component : int
        Running id of the component that came of it.
    parents : tuple of int
        Running ids of those that it was made from.
    """

    round: int
    kind: str
    component: int
    parents: tuple[int, ...]


def mean_directions(features: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Return the direction of each class's mean of L2-normalised rows, (n_classes, n_features), of norm 1.

    A class without rows has zeros.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        In [0, n_classes).
    n_classes : int
    """
    sums = features.new_zeros((n_classes, features.shape[1]), dtype=torch.float64)
    for rows, classes in zip(torch.split(features, _CHUNK), torch.split(labels, _CHUNK), strict=True):
        sums.index_add_(0, classes, l2_normalize(rows.double()))
    return l2_normalize(sums).to(features.dtype)


def distance_to_mean(features: Tensor, labels: Tensor, directions: Tensor) -> Tensor:
    """Return one minus the cosine of each row with the mean of its class, (n,): 0 at the middle of the class."""
    parts = zip(torch.split(features, _CHUNK), torch.split(labels, _CHUNK), strict=True)
    return torch.cat([1 - (l2_normalize(rows) * directions[classes]).sum(1) for rows, classes in parts])


def nearest_known(directions: Tensor, n_known: int) -> tuple[Tensor, Tensor]:
    """Return the known class nearest to each class, other than itself, and the cosine of the two means.

    Parameters
    ----------
    directions : Tensor (n_classes, n_features)
        Of `mean_directions`, the known classes first.
    n_known : int

    Returns
    -------
    nearest : Tensor (n_classes,), int64
        -1 where there is no known class, or no other.
    cosine : Tensor (n_classes,)
        NaN there.

    Examples
    --------
    >>> directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> nearest_known(directions, 2)[0].tolist()
    [1, 0, 1]
    """
    n_classes = len(directions)
    if n_known == 0:
        return directions.new_full((n_classes,), -1, dtype=torch.int64), directions.new_full((n_classes,), torch.nan)
    cosines = directions @ directions[:n_known].mT
    cosines[:n_known].fill_diagonal_(-torch.inf)
    found = cosines.max(1)
    is_there = found.values > -torch.inf
    return torch.where(is_there, found.indices, -1), torch.where(is_there, found.values, torch.nan)


def first_of_each(labels: Tensor, scores: Tensor, n_rows: int) -> Tensor:
    """Return the positions of the ``n_rows`` lowest scores of each class, class by class, lowest first.

    Parameters
    ----------
    labels : Tensor (n,), int64
        Rows below 0 are left out.
    scores : Tensor (n,)
        Ties: the earlier row.
    n_rows : int

    Returns
    -------
    Tensor (at most n_classes · n_rows,), int64

    Examples
    --------
    >>> first_of_each(torch.tensor([1, 0, 1, 1, -1]), torch.tensor([0.3, 0.5, 0.1, 0.2, 0.0]), 2).tolist()
    [1, 2, 3]
    """
    by_score = torch.argsort(scores, stable=True)
    order = by_score[torch.argsort(labels[by_score], stable=True)]
    order = order[labels[order] >= 0]
    classes = labels[order]
    rank = torch.arange(len(order), device=labels.device) - torch.searchsorted(classes, classes)
    return order[rank < n_rows]


def balanced_rows(labels: Tensor, n_rows: int, *, generator: torch.Generator) -> Tensor:
    """Draw at most ``n_rows`` rows, ascending, so that no class goes under: a share of each, first the same for all.

    Parameters
    ----------
    labels : Tensor (n,), int64
    n_rows : int
    generator : torch.Generator

    Returns
    -------
    Tensor (min(n, n_rows),), int64

    Notes
    -----
    A tenth of the rows is dealt out evenly over the classes, the rest at random over all that are left.
    """
    if len(labels) <= n_rows:
        return torch.arange(len(labels))
    order = torch.randperm(len(labels), generator=generator)
    n_classes = max(1, len(torch.unique(labels)))
    rank = torch.arange(len(labels), dtype=torch.float64)
    even = order[first_of_each(labels.cpu()[order], rank, n_rows // (10 * n_classes))]
    others = order[~torch.isin(order, even)]
    return torch.cat([even, others])[:n_rows].sort().values


def place_beside(features: Tensor, rows: Tensor, places: Tensor, *, n_neighbours: int = 3) -> Tensor:
    """Place every row of a map on which some rows have a place: the others at the mean of their nearest ones' places.

    Parameters
    ----------
    features : Tensor (n, n_features)
    rows : Tensor (m,), int64
        The rows that have a place.
    places : Tensor (m, 2)
    n_neighbours : int
        Nearest by cosine. Default 3: the least that lies inside of a cluster.

    Returns
    -------
    Tensor (n, 2)
    """
    anchors = l2_normalize(features[rows]).mT
    n_neighbours = min(n_neighbours, len(rows))
    parts = [places[(part @ anchors).topk(n_neighbours).indices].mean(1) for part in torch.split(features, _CHUNK)]
    placed = torch.cat(parts)
    placed[rows] = places
    return placed


def lineages(proposals: Iterable[Any], component_ids: Sequence[int]) -> list[tuple[Step, ...]]:
    """Return how each class came about: the accepted moves that lead to it, the last first.

    Parameters
    ----------
    proposals : iterable
        With ``round``, ``kind``, ``parents``, ``children`` and ``is_accepted``, in order; ids are running ones.
    component_ids : sequence of int
        The running id of each class.

    Returns
    -------
    list of tuples of Step
        One a class; empty for a class that was there from the start. A component that keeps its id while others leave
        it, or split off it, has no step of it; one that takes others in has. Of the parents of a new component, the
        first is followed.

    Examples
    --------
    >>> class Move(NamedTuple):
    ...     round: int
    ...     kind: str
    ...     parents: tuple
    ...     children: tuple
    ...     is_accepted: bool = True
    >>> moves = [Move(0, "shed", (0,), (0, 2)), Move(1, "split", (2,), (2, 3)), Move(2, "merge", (1, 2), (1,))]
    >>> [[tuple(step) for step in steps] for steps in lineages(moves, [0, 1, 3])]
    [[], [(2, 'merge', 1, (1, 2))], [(1, 'split', 3, (2,)), (0, 'shed', 2, (0,))]]
    """
    moves = [move for move in proposals if move.is_accepted][::-1]
    return [tuple(_steps(moves, component)) for component in component_ids]


def _steps(moves: Iterable[Any], component: int) -> Iterator[Step]:
    """Walk back from the last move."""
    for move in moves:
        is_parent = component in move.parents
        if component in move.children and (not is_parent or len(move.parents) > 1):
            yield Step(move.round, move.kind, component, tuple(move.parents))
            component = component if is_parent else move.parents[0]
