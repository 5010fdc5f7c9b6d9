r"""Counts, means and scatters of clusters: all that the evidence for a split or a merge needs to know.

The scatter is ``S_k = Σ_{i∈k} (x_i - x̄_k)(x_i - x̄_k)ᵀ``, not divided. Statistics of disjoint sets add:
n = n₁ + n₂, x̄ = (n₁x̄₁ + n₂x̄₂)/n, S = S₁ + S₂ + (n₁n₂/n)(x̄₁ - x̄₂)(x̄₁ - x̄₂)ᵀ, where nothing large is taken from
anything large.

Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American Statistician 37, 1983.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ClusterStatistics", "add_statistics", "cluster_statistics"]

_CHUNK = 16384


class ClusterStatistics(NamedTuple):
    """What is known of each of some clusters, in float64.

    Attributes
    ----------
    counts : Tensor (..., n_clusters)
    means : Tensor (..., n_clusters, n_features)
        Zero for an empty cluster.
    scatters : Tensor (..., n_clusters, n_features, n_features)
    """

    counts: Tensor
    means: Tensor
    scatters: Tensor

    def at(self, index: Tensor) -> ClusterStatistics:
        """Return the statistics of some clusters, in the order of ``index``."""
        return ClusterStatistics(*(field[index] for field in self))


def add_statistics(first: ClusterStatistics, second: ClusterStatistics) -> ClusterStatistics:
    """Return the statistics of the union of disjoint sets, cluster by cluster.

    Examples
    --------
    >>> rows, one = torch.tensor([[0.0], [2], [4], [6]]), torch.zeros(2, dtype=torch.int64)
    >>> low, high = cluster_statistics(rows[:2], one, 1), cluster_statistics(rows[2:], one, 1)
    >>> [field.flatten().tolist() for field in add_statistics(low, high)]
    [[4.0], [3.0], [20.0]]
    """
    counts = first.counts + second.counts
    share = second.counts / counts.clamp(min=1)
    gap = second.means - first.means
    means = first.means + share[..., None] * gap
    weight = first.counts * share
    scatters = first.scatters + second.scatters + weight[..., None, None] * gap[..., :, None] * gap[..., None, :]
    return ClusterStatistics(counts, means, scatters)


def cluster_statistics(features: Tensor, labels: Tensor, n_clusters: int) -> ClusterStatistics:
    """Gather the statistics of clusters, each cluster's rows in one product.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        In [0, n_clusters), or -1 for a row that does not count.
    n_clusters : int

    Returns
    -------
    ClusterStatistics
        float64; whatever the order of the rows, the same up to rounding.
    """
    n_features = features.shape[1]
    counts = torch.bincount(labels + 1, minlength=n_clusters + 1)[1:].to(torch.float64)
    order = labels.argsort(stable=True)
    order = order[len(order) - int(counts.sum()) :]
    sums = features.new_zeros((n_clusters, n_features), dtype=torch.float64)
    for rows in torch.split(order, _CHUNK):
        sums.index_add_(0, labels[rows], features[rows].double())
    means = sums / counts.clamp(min=1)[:, None]
    scatters = features.new_zeros((n_clusters, n_features, n_features), dtype=torch.float64)
    for cluster, rows in enumerate(torch.split(order, counts.long().tolist())):
        deviations = features[rows].double() - means[cluster]
        scatters[cluster] = deviations.mT @ deviations
    return ClusterStatistics(counts, means, scatters)
