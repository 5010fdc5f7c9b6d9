r"""Sufficient statistics of clusters: counts, means and scatters.

The scatter is ``S_k = Σ_{i∈k} (x_i - x̄_k)(x_i - x̄_k)ᵀ``, not divided. Statistics of disjoint sets add:
n = n₁ + n₂, x̄ = (n₁x̄₁ + n₂x̄₂)/n, S = S₁ + S₂ + (n₁n₂/n)(x̄₁ - x̄₂)(x̄₁ - x̄₂)ᵀ, where nothing large is taken from
anything large.

Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American Statistician 37, 1983.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.distributed import all_sum

__all__ = ["ClusterStatistics", "add_statistics", "cluster_statistics", "cluster_sums"]

_CHUNK = 16384


class ClusterStatistics(NamedTuple):
    """Sufficient statistics of clusters, in float64.

    Attributes
    ----------
    counts : Tensor (..., n_clusters)
    means : Tensor (..., n_clusters, n_features)
        Zero for an empty cluster.
    scatters : Tensor (..., n_clusters, n_features, n_features) or None
        None where they are not needed.
    """

    counts: Tensor
    means: Tensor
    scatters: Tensor | None = None

    def at(self, index: Tensor) -> ClusterStatistics:
        """Return the statistics of some clusters, in the order of ``index``."""
        scatters = None if self.scatters is None else self.scatters[index]
        return ClusterStatistics(self.counts[index], self.means[index], scatters)


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
    if first.scatters is None or second.scatters is None:
        return ClusterStatistics(counts, means)
    weight = first.counts * share
    between = weight[..., None, None] * gap[..., :, None] * gap[..., None, :]
    return ClusterStatistics(counts, means, first.scatters + second.scatters + between)


def cluster_statistics(
    features: Tensor, labels: Tensor, n_clusters: int, *, with_scatters: bool = True
) -> ClusterStatistics:
    """Compute the statistics of clusters, each cluster's rows in one product.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        In [0, n_clusters), or -1 for a row that does not count.
    n_clusters : int
    with_scatters : bool
        Default True.

    Returns
    -------
    ClusterStatistics
        float64; whatever the order of the rows, the same up to rounding. Over all processes, where there are several.
    """
    counts, sums = cluster_sums(features, labels, n_clusters, dtype=torch.float64)
    means = sums / counts.clamp(min=1)[:, None]
    if not with_scatters:
        return ClusterStatistics(counts, means)
    order = labels.argsort(stable=True)
    n_rows = torch.bincount(labels + 1, minlength=n_clusters + 1)
    scatters = [
        _gram(features[rows].double() - mean)
        for rows, mean in zip(torch.split(order[int(n_rows[0]) :], n_rows[1:].tolist()), means, strict=True)
    ]
    return ClusterStatistics(counts, means, *all_sum(torch.stack(scatters)))


def cluster_sums(features: Tensor, labels: Tensor, n_clusters: int, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the counts (n_clusters,) and sums (n_clusters, n_features) of clusters, added up in ``dtype``.

    Over all processes, where there are several; a label of -1 does not count.
    """
    sums = features.new_zeros((n_clusters + 1, features.shape[1]), dtype=dtype)
    for rows, owners in zip(torch.split(features, _CHUNK), torch.split(labels, _CHUNK), strict=True):
        sums.index_add_(0, owners + 1, rows.to(dtype))
    counts, sums = all_sum(torch.bincount(labels + 1, minlength=n_clusters + 1)[1:].to(dtype), sums[1:])
    return counts, sums


def _gram(rows: Tensor) -> Tensor:
    return rows.mT @ rows
