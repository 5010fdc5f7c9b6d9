"""Counts of items by cluster and class, and the one-to-one matching of clusters to classes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["ContingencyTable", "contingency_table", "matched_clusters"]


class ContingencyTable(NamedTuple):
    """Number of items by cluster and class.

    Attributes
    ----------
    counts : Tensor (..., n_clusters, n_classes), int64
    cluster_ids : Tensor (n_clusters,), int64
        The clusters that have counted items, ascending.
    class_ids : Tensor (n_classes,), int64
        The classes with items, ascending.
    """

    counts: Tensor
    cluster_ids: Tensor
    class_ids: Tensor


def contingency_table(clusters: Tensor, labels: Tensor) -> ContingencyTable:
    """Count the items of each class in each cluster.

    Parameters
    ----------
    clusters : Tensor (..., n), integer
        The cluster of each item; any non-negative ids, with or without gaps.
    labels : Tensor (..., n), integer
        The true class of each item; a negative one marks an item of unknown class, or padding, which is not counted.

    Returns
    -------
    ContingencyTable

    Raises
    ------
    TypeError
        If either is not an integer tensor.
    ValueError
        If the shapes differ, or a counted item has a negative cluster.

    Notes
    -----
    In category discovery the items to score are the **unlabelled** ones: leave out those whose label was given.
    The order of the items changes nothing.

    Examples
    --------
    >>> contingency_table(torch.tensor([7, 7, 3, 3, 3]), torch.tensor([0, 0, 0, 5, -1]))
    ContingencyTable(counts=tensor([[1, 1], [2, 0]]), cluster_ids=tensor([3, 7]), class_ids=tensor([0, 5]))
    """
    clusters, labels = _integers("clusters", clusters), _integers("labels", labels)
    if clusters.shape != labels.shape or labels.dim() == 0:
        raise ValueError(
            "clusters and labels must have one entry per item, (..., n) each; "
            f"got shapes {tuple(clusters.shape)} and {tuple(labels.shape)}"
        )
    is_real = labels >= 0
    batch = labels.shape[:-1]
    problem = torch.arange(math.prod(batch), device=labels.device).view(*batch, 1).expand_as(labels)[is_real]
    cluster_ids, cluster = torch.unique(clusters[is_real], return_inverse=True)
    class_ids, place = torch.unique(labels[is_real], return_inverse=True)
    if len(cluster_ids) and int(cluster_ids[0]) < 0:
        raise ValueError(
            f"clusters must not be negative, got {int(cluster_ids[0])}: give outliers a cluster of their own"
        )
    shape = (*batch, len(cluster_ids), len(class_ids))
    cell = (problem * len(cluster_ids) + cluster) * len(class_ids) + place
    return ContingencyTable(torch.bincount(cell, minlength=math.prod(shape)).view(shape), cluster_ids, class_ids)


def _integers(what: str, values: Tensor) -> Tensor:
    values = torch.as_tensor(values)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{what} must be integers, got {values.dtype}")
    return values.long()


def matched_clusters(counts: Tensor, is_known: Tensor) -> Tensor:
    """Match clusters to classes one to one, so that the most items lie in the cluster matched to their class.

    ``argmax over injective h of sum_k counts[h(k), k]`` (the Hungarian method).

    Parameters
    ----------
    counts : Tensor (..., n_clusters, n_classes), int64
        There may be more clusters than classes, or fewer.
    is_known : Tensor (n_classes,), bool
        For the tie-break.

    Returns
    -------
    Tensor (..., n_classes), int64
        Row of the cluster in the table; -1 for a class without a cluster. A pair that shares no item is not matched.

    Notes
    -----
    **Ties.** Among the matchings with the most items overall, one with the most items of known classes is taken, so
    the accuracy of novel classes is the lowest that any of them gives. Then none of All, Old and New (``v2``) depends
    on the names or the order of clusters or classes. The authors' code takes the first optimum of the solver. Any
    remaining tie is broken by the rows of the table, never by the names of clusters.

    The solver works on float64: exact up to 9e7 items. It takes one table at a time, on the CPU.

    Examples
    --------
    >>> matched_clusters(torch.tensor([[4, 3], [5, 0], [0, 1]]), torch.tensor([True, False])).tolist()
    [1, 0]
    """
    tables = counts.reshape(math.prod(counts.shape[:-2]), *counts.shape[-2:]).cpu().numpy()
    known = is_known.cpu().numpy()
    found = np.array([_matched(table, known) for table in tables], dtype=np.int64)
    return torch.from_numpy(found.reshape(*counts.shape[:-2], counts.shape[-1])).to(counts.device)


def _matched(counts: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    matched = np.full(counts.shape[1], -1)
    columns = np.flatnonzero(counts.any(axis=0))
    if len(columns) == 0:
        return matched
    rows = np.lexsort(counts.T[::-1])
    rows = rows[counts[rows].any(axis=1)]
    shared = counts[np.ix_(rows, columns)]
    weights = shared * (counts.sum() + 1 + is_known[columns])
    row, column = linear_sum_assignment(weights, maximize=True)
    is_match = shared[row, column] > 0
    matched[columns[column[is_match]]] = rows[row[is_match]]
    return matched
