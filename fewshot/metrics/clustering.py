"""Scores of a clustering against known classes, each computed from one contingency table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.metrics.contingency import ContingencyTable, matched_clusters

__all__ = [
    "ACCURACY_VARIANTS",
    "ClassScores",
    "ClusteringAccuracy",
    "adjusted_rand_index",
    "class_scores",
    "clustering_accuracy",
    "n_classes_error",
    "normalized_mutual_information",
]

ACCURACY_VARIANTS = ("v2", "v2b", "v1", "orca")


class ClusteringAccuracy(NamedTuple):
    """The three accuracies of generalized category discovery, float64 in [0, 1]; NaN where there is nothing to score.

    Attributes
    ----------
    all, old, new : Tensor (...)
        Of all items; of those of known classes; of those of novel classes.
    """

    all: Tensor
    old: Tensor
    new: Tensor


class ClassScores(NamedTuple):
    """Recall and precision of each class under the one-to-one matching.

    Attributes
    ----------
    class_ids : Tensor (n_classes,), int64
    is_known : Tensor (n_classes,), bool
    sizes : Tensor (..., n_classes), int64
        Items of the class.
    cluster_ids : Tensor (..., n_classes), int64
        The matched cluster; -1 for none.
    recall : Tensor (..., n_classes), float64
        Share of the class's items in its cluster: 0 without a cluster, NaN without items.
    precision : Tensor (..., n_classes), float64
        Share of the cluster's items of the class; NaN without a cluster.
    """

    class_ids: Tensor
    is_known: Tensor
    sizes: Tensor
    cluster_ids: Tensor
    recall: Tensor
    precision: Tensor


def clustering_accuracy(
    table: ContingencyTable, known_class_ids: Tensor | Sequence[int] = (), *, variant: str = "v2"
) -> ClusteringAccuracy:
    """Compute clustering accuracy: the share of items that lie in the cluster matched to their class.

    Parameters
    ----------
    table : ContingencyTable
        Of the unlabelled items.
    known_class_ids : Tensor or sequence of int
        The classes that had labels ("Old"). Default: none.
    variant : {"v2", "v2b", "v1", "orca"}
        - ``v2``: **one** matching over all items, from which Old and New follow. The variant of published GCD tables.
        - ``v2b``: the matching of ``v2``; the mean over classes of the share within each.
        - ``v1``: two matchings, one of the old items and one of the new: a cluster may serve two classes, so All is
          never lower than by ``v2``. The variant of earlier work on novel category discovery.
        - ``orca``: All by a matching of all items; New by a matching of the new ones; Old **without** a matching: an
          item is right if its cluster has the same id as its class.

    Returns
    -------
    ClusteringAccuracy
        NaN where no item is of a known class, or none is of a novel one.

    Raises
    ------
    ValueError
        If the variant is unknown.

    Notes
    -----
    Surplus clusters and surplus classes match nothing and score 0. Renaming or reordering the clusters changes nothing
    (except Old of ``orca``). By ``v2``, ``All · n = Old · n_old + New · n_new``. The tie-break is that of
    :func:`matched_clusters`. The authors' ``v2`` divides by zero where Old or New is empty.

    Source
    ------
    Vaze et al., "Generalized Category Discovery", CVPR 2022, released code (``split_cluster_acc_v2``, ``_v1``); Wen et
    al., "Parametric Classification for Generalized Category Discovery: A Baseline Study", ICCV 2023 (``v2b``), and Cao
    et al., "Open-World Semi-Supervised Learning", ICLR 2022 (``orca``), from descriptions of their code.

    Examples
    --------
    >>> from fewshot.metrics.contingency import contingency_table
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
    """Compute the recall and precision of each class, and the cluster matched to it.

    Parameters
    ----------
    table : ContingencyTable
    known_class_ids : Tensor or sequence of int
        Default: none.

    Returns
    -------
    ClassScores
        By the one matching of ``v2``: the means of the recalls, weighted by the sizes, are its All, Old and New.

    Examples
    --------
    >>> from fewshot.metrics.contingency import contingency_table
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
    """Compute the mutual information of clusters and classes, divided by the mean of their entropies.

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
    Renaming clusters or classes, or exchanging the two, changes nothing. It rises by chance with the number of
    clusters: see :func:`adjusted_rand_index`.

    Source
    ------
    Strehl and Ghosh, "Cluster Ensembles", JMLR 3, 2002, with the arithmetic mean (scikit-learn's default).

    Examples
    --------
    >>> from fewshot.metrics.contingency import contingency_table
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
    """Compute the share of pairs of items on which clusters and classes agree, corrected for chance.

    ``ARI = (S - A · B / P) / ((A + B) / 2 - A · B / P)``, where A pairs share a cluster, B share a class, S share
    both, and P is the number of pairs.

    Parameters
    ----------
    table : ContingencyTable

    Returns
    -------
    Tensor (...), float64
        In [-0.5, 1]: 0 on average for random clusters, 1 where the partitions are the same, NaN without items.

    Notes
    -----
    Renaming clusters or classes, or exchanging the two, changes nothing.

    Source
    ------
    Hubert and Arabie, "Comparing Partitions", Journal of Classification 2, 1985, Eq. 5.

    Examples
    --------
    >>> from fewshot.metrics.contingency import contingency_table
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
    """Compute the relative error of a number of classes: ``|n_found - n_classes| / n_classes``.

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
