"""Outlier scores: distances to class means, ranked among those of known rows."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.discovery.statistics import cluster_sums

__all__ = ["outlier_scores"]

_CHUNK = 16384


def outlier_scores(features: Tensor, labels: Tensor, is_reference: Tensor, n_clusters: int) -> Tensor:
    """Compare each row's distance to the mean of its cluster with those of reference rows to theirs.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        In [0, n_clusters).
    is_reference : Tensor (n,), bool
        Rows that are known to lie in their cluster; all rows where there is none.
    n_clusters : int

    Returns
    -------
    Tensor (n,)
        The share of reference rows that lie nearer, in [0, 1].

    Examples
    --------
    >>> rows = torch.tensor([[-1.0], [1.0], [-3.0], [3.0]])
    >>> outlier_scores(rows, torch.zeros(4).long(), torch.ones(4).bool(), 1).tolist()
    [0.0, 0.0, 0.5, 0.5]
    """
    counts, sums = cluster_sums(features, labels, n_clusters, dtype=torch.float64)
    means = (sums / counts.clamp(min=1)[:, None]).to(features.dtype)
    parts = zip(torch.split(features, _CHUNK), torch.split(labels, _CHUNK), strict=True)
    distances = torch.cat([(rows - means[owners]).square().sum(-1) for rows, owners in parts])
    reference = distances[is_reference] if bool(is_reference.any()) else distances
    return torch.searchsorted(reference.sort().values, distances).to(features.dtype) / len(reference)
