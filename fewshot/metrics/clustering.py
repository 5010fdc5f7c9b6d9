"""Scores of a clustering against known classes, each from one table of counts: how category discovery is judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewshot.checks import check_choice

__all__ = [
    "ACCURACY_VARIANTS",
    "ClassScores",
    "ClusteringAccuracy",
    "ContingencyTable",
    "adjusted_rand_index",
    "class_scores",
    "clustering_accuracy",
    "contingency_table",
    "matched_clusters",
    "n_classes_error",
    "normalized_mutual_information",
]

ACCURACY_VARIANTS = ("v2", "v2b", "v1", "orca")


class ContingencyTable(NamedTuple):
    """How many items of each class lie in each cluster.

    Attributes
    ----------
    counts : Tensor (..., n_clusters, n_classes), int64
    cluster_ids : Tensor (n_clusters,), int64
        The clusters with items that count, ascending.
    class_ids : Tensor (n_classes,), int64
        The classes with items, ascending.
    """

    counts: Tensor
    cluster_ids: Tensor
    class_ids: Tensor


class ClusteringAccuracy(NamedTuple):
    """The three numbers of a GCD table, float64 in [0, 1]; NaN where there is nothing to score.

    Attributes
    ----------
    all, old, new : Tensor (...)
        Over all items; over those of known classes; over those of novel ones.
    """

    all: Tensor
    old: Tensor
    new: Tensor


class ClassScores(NamedTuple):
    """A row for each class.

    Attributes
    ----------
    class_ids : Tensor (n_classes,), int64
    is_known : Tensor (n_classes,), bool
    sizes : Tensor (..., n_classes), int64
        Items of the class.
    cluster_ids : Tensor (..., n_classes), int64
        The cluster matched to the class; -1 for none.
    recall : Tensor (..., n_classes), float64
        Share of the class that lies in its cluster: 0 without a cluster, NaN without items.
    precision : Tensor (..., n_classes), float64
        Share of the cluster that is of the class; NaN without a cluster.
    """

    class_ids: Tensor
    is_known: Tensor
    sizes: Tensor
    cluster_ids: Tensor
    recall: Tensor
    precision: Tensor


def contingency_table(clusters: Tensor, labels: Tensor) -> ContingencyTable:
    """Count the items of each class in each cluster.

    Parameters
    ----------
    clusters : Tensor (..., n), integer
        The cluster of each item; any ids but negative ones, gaps cost nothing.
    labels : Tensor (..., n), integer
        The true class of each item; negative: not known, or padding, and the item does not count.

    Returns
    -------
    ContingencyTable

    Raises
    ------
    TypeError
        If either is not of integers.
    ValueError
        If the shapes differ, or an item that counts has a negative cluster.

    Notes
    -----
    In category discovery the items to score are the **unlabelled** ones: leave out those whose label was shown.
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
        raise ValueError(f"clusters must not be negative, got {int(cluster_ids[0])}: give outliers a cluster of theirs")
    shape = (*batch, len(cluster_ids), len(class_ids))
    cell = (problem * len(cluster_ids) + cluster) * len(class_ids) + place
    return ContingencyTable(torch.bincount(cell, minlength=math.prod(shape)).view(shape), cluster_ids, class_ids)


def _integers(what: str, values: Tensor) -> Tensor:
    values = torch.as_tensor(values)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{what} must be integers, got {values.dtype}")
    return values.long()


def matched_clusters(counts: Tensor, is_known: Tensor) -> Tensor:
    """Give each class a cluster of its own, so that as many items as can be lie in the cluster of their class.

    ``argmax over injective h of sum_k counts[h(k), k]`` (the Hungarian method).

    Parameters
    ----------
    counts : Tensor (..., n_clusters, n_classes), int64
        More clusters than classes, or fewer, will do.
    is_known : Tensor (n_classes,), bool
        For the tie-break.

    Returns
    -------
    Tensor (..., n_classes), int64
        The place of the cluster in the table; -1 for a class that is left without one. A pair that shares no item is
        no match.

    Notes
    -----
    **Ties.** Among the matchings that are best for all items, one that is best for the items of known classes is
    taken, so the figure for novel classes is the lowest that any of them gives. Neither All, Old nor New (``v2``)
    then depends on the names or order of clusters or classes. The authors' code takes what the solver finds first.
    For what is still open, clusters are ordered by their rows in the table, so that their names never matter.

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


def clustering_accuracy(
    table: ContingencyTable, known_class_ids: Tensor | Sequence[int] = (), *, variant: str = "v2"
) -> ClusteringAccuracy:
    """Score a clustering by the share of items that lie in the cluster matched to their class.

    Parameters
    ----------
    table : ContingencyTable
        Of the unlabelled items.
    known_class_ids : Tensor or sequence of int
        The classes that had labels ("Old"). Default: none.
    variant : {"v2", "v2b", "v1", "orca"}
        - ``v2``: **one** matching over all items, and Old and New read off it. What the GCD tables show.
        - ``v2b``: the matching of ``v2``; the mean over classes of the share within each.
        - ``v1``: two matchings, one of the old items and one of the new: a cluster may serve two classes, so All is
          never lower than by ``v2``. What novel category discovery used before.
        - ``orca``: All by a matching of all items; New by a matching of the new ones; Old **without** a matching: an
          item is right if the id of its cluster is the id of its class.

    Returns
    -------
    ClusteringAccuracy
        NaN where no item is of a known class, or none is of a novel one.

    Raises
    ------
    ValueError
        If the variant is none of these.

    Notes
    -----
    Surplus clusters and surplus classes match nothing and score 0. Renaming or reordering the clusters changes nothing
    (but for Old of ``orca``). By ``v2``, ``All · n = Old · n_old + New · n_new``. The tie-break is that of
    :func:`matched_clusters`. The authors' ``v2`` divides by zero where Old or New is empty.

    Source
    ------
    Vaze et al., "Generalized Category Discovery", CVPR 2022, released code (``split_cluster_acc_v2``, ``_v1``); Wen et
    al., "Parametric Classification for Generalized Category Discovery: A Baseline Study", ICCV 2023 (``v2b``), and Cao
    et al., "Open-World Semi-Supervised Learning", ICLR 2022 (``orca``), from descriptions of their code.

    Examples
    --------
    >>> table = contingency_table(torch.tensor([0, 2, 2, 0, 2, 0, 2, 1]), torch.tensor([0, 0, 1, 2, 2, 2, 2, 2]))
    >>> for variant in ACCURACY_VARIANTS:
    ...     scores = clustering_accuracy(table, [0, 1], variant=variant)
    ...     print(variant, [round(value.item(), 4) for value in scores])
    v2 [0.375, 0.6667, 0.2]
    v2b [0.5667, 0.75, 0.2]
    v1 [0.5, 0.6667, 0.4]
    orca [0.375, 0.3333, 0.4]
    """
    check_choice("variant of clustering accuracy", variant, ACCURACY_VARIANTS)
    counts, is_known = table.counts, _is_known(table, known_class_ids)
    everything, sizes = torch.ones_like(is_known), counts.sum(-2)
    n_matched = _n_matched(counts, is_known)
    if variant == "v2b":
        n_right, sizes = n_matched.double() / sizes.clamp(min=1), (sizes > 0).long()
    elif variant == "v2":
        n_right = n_matched
    else:
        apart = _n_matched(counts * is_known, is_known) + _n_matched(counts * ~is_known, is_known)
        same_id = (counts * (table.cluster_ids[:, None] == table.class_ids)).sum(-2)
        n_right = apart if variant == "v1" else torch.where(is_known, same_id, apart)
    return ClusteringAccuracy(
        all=_share(n_matched if variant == "orca" else n_right, sizes, everything),
        old=_share(n_right, sizes, is_known),
        new=_share(n_right, sizes, ~is_known),
    )


def _is_known(table: ContingencyTable, known_class_ids: Tensor | Sequence[int]) -> Tensor:
    known = torch.as_tensor(known_class_ids, dtype=torch.int64, device=table.class_ids.device)
    return torch.isin(table.class_ids, known)


def _n_matched(counts: Tensor, is_known: Tensor) -> Tensor:
    """Count the items of each class that lie in its cluster."""
    matched = matched_clusters(counts, is_known)
    return torch.where(matched >= 0, counts.gather(-2, matched.clamp(min=0)[..., None, :])[..., 0, :], 0)


def _share(n_right: Tensor, n_items: Tensor, is_chosen: Tensor) -> Tensor:
    return (n_right * is_chosen).sum(-1).double() / (n_items * is_chosen).sum(-1)


def class_scores(table: ContingencyTable, known_class_ids: Tensor | Sequence[int] = ()) -> ClassScores:
    """Say of each class which cluster is its own, and how well the two agree.

    Parameters
    ----------
    table : ContingencyTable
    known_class_ids : Tensor or sequence of int
        Default: none.

    Returns
    -------
    ClassScores
        By the one matching of ``v2``: the recalls, weighted by the sizes, give its All, Old and New.

    Examples
    --------
    >>> table = contingency_table(torch.tensor([8, 8, 8, 9, 9]), torch.tensor([0, 0, 1, 1, 2]))
    >>> scores = class_scores(table, [0, 1])
    >>> scores.cluster_ids.tolist(), scores.recall.tolist()
    ([8, 9, -1], [1.0, 0.5, 0.0])
    """
    counts, is_known = table.counts, _is_known(table, known_class_ids)
    matched = matched_clusters(counts, is_known)
    has_cluster, place = matched >= 0, matched.clamp(min=0)
    n_matched = counts.gather(-2, place[..., None, :])[..., 0, :].double() * has_cluster
    sizes = counts.sum(-2)
    return ClassScores(
        class_ids=table.class_ids,
        is_known=is_known,
        sizes=sizes,
        cluster_ids=torch.where(has_cluster, table.cluster_ids[place], -1),
        recall=n_matched / sizes,
        precision=torch.where(has_cluster, n_matched / counts.sum(-1).gather(-1, place), torch.nan),
    )


def normalized_mutual_information(table: ContingencyTable) -> Tensor:
    """Return how much clusters and classes tell of each other, in shares of the mean of their two entropies.

    ``NMI = I(C; Y) / ((H(C) + H(Y)) / 2)``

    Parameters
    ----------
    table : ContingencyTable

    Returns
    -------
    Tensor (...), float64
        In [0, 1]; 1 where there is one cluster and one class, NaN without items.

    Notes
    -----
    Renaming clusters or classes, or exchanging the two, changes nothing. More clusters raise it by chance: see
    :func:`adjusted_rand_index`.

    Source
    ------
    Strehl and Ghosh, "Cluster Ensembles", JMLR 3, 2002, with the arithmetic mean (scikit-learn's default).

    Examples
    --------
    >>> table = contingency_table(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1]))
    >>> round(normalized_mutual_information(table).item(), 4)
    0.3437
    """
    joint = table.counts.double() / table.counts.sum((-2, -1), keepdim=True)
    of_cluster, of_class = joint.sum(-1), joint.sum(-2)
    product = of_cluster[..., :, None] * of_class[..., None, :]
    information = torch.where(joint > 0, joint * (joint / product).log(), joint).sum((-2, -1)).clamp(min=0)
    mean_entropy = -(torch.xlogy(of_cluster, of_cluster).sum(-1) + torch.xlogy(of_class, of_class).sum(-1)) / 2
    is_certain = (table.counts > 0).sum((-2, -1)) == 1
    return torch.where(is_certain, 1.0, information / mean_entropy)


def adjusted_rand_index(table: ContingencyTable) -> Tensor:
    """Return the share of pairs of items on which clusters and classes agree, with agreement by chance taken out.

    ``ARI = (S - A · B / P) / ((A + B) / 2 - A · B / P)``, where A pairs share a cluster, B share a class, S share
    both, and P is the number of pairs.

    Parameters
    ----------
    table : ContingencyTable

    Returns
    -------
    Tensor (...), float64
        In [-0.5, 1]: 0 on average for clusters by chance, 1 where the partitions are the same, NaN without items.

    Notes
    -----
    Renaming clusters or classes, or exchanging the two, changes nothing.

    Source
    ------
    Hubert and Arabie, "Comparing Partitions", Journal of Classification 2, 1985, Eq. 5.

    Examples
    --------
    >>> adjusted_rand_index(contingency_table(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 2]))).item()
    0.5714285714285715
    """
    both = _n_pairs(table.counts).sum((-2, -1))
    in_cluster, in_class = (_n_pairs(table.counts.sum(axis)).sum(-1) for axis in (-1, -2))
    n_items = table.counts.sum((-2, -1))
    by_chance = in_cluster.double() * in_class / _n_pairs(n_items)
    found = (both - by_chance) / ((in_cluster + in_class).double() / 2 - by_chance)
    is_same = (both == in_cluster) & (both == in_class)
    return torch.where(n_items > 0, torch.where(is_same, 1.0, found), torch.nan)


def _n_pairs(counts: Tensor) -> Tensor:
    return counts * (counts - 1) // 2


def n_classes_error(n_found: int, n_classes: int) -> float:
    """Return how far a number of classes is from the true one: ``|n_found - n_classes| / n_classes``.

    Raises
    ------
    ValueError
        If ``n_classes`` is not positive.

    Examples
    --------
    >>> n_classes_error(230, 200)
    0.15
    """
    if n_classes < 1:
        raise ValueError(f"n_classes must be at least 1, got {n_classes}")
    return abs(n_found - n_classes) / n_classes
