r"""Split proposals: every component split in two by 2-means, all components at once.

    side_i = 1 where (x_i - (c₀ + c₁)/2) · (c₁ - c₀) > 0,   c_s = mean of the rows of a component on side s

Bound rows stay on side 0. 2-means starts along the directions of largest variance of a component.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.split_merge.evidence import Evidence, log_split_ratio
from fewshot.discovery.statistics import cluster_statistics, cluster_sums
from fewshot.distributed import all_sum

__all__ = ["SplitProposals", "propose_splits", "two_means"]

# Rows at a time, and their directions: small enough to stay in a processor's cache.
_CHUNK = 2048


class SplitProposals(NamedTuple):
    """The best split in two that was found for each component.

    Attributes
    ----------
    log_ratio : Tensor (n_components,), float64
        log H_s of the split; minus infinity where none has ``min_size`` items on both sides.
    is_second : Tensor (n,), bool
        The rows that would leave their component.
    """

    log_ratio: Tensor
    is_second: Tensor


def propose_splits(
    features: Tensor,
    labels: Tensor,
    is_bound: Tensor,
    n_components: int,
    evidence: Evidence,
    *,
    concentration: float = 1.0,
    n_axes: int = 2,
    n_steps: int = 10,
    min_size: int = 2,
) -> SplitProposals:
    """Split every component in two, from several starts, and keep the split of highest evidence.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        The component of each row.
    is_bound : Tensor (n,), bool
        Rows that stay with their component: the labelled ones.
    n_components : int
    evidence : Evidence
    concentration : float
    n_axes : int
        Directions of largest variance to start from, default 2. A component with bound rows starts from both ends of
        each: the rows that leave it lie on one side of them.
    n_steps : int
        Steps of 2-means, default 10: halves that have not converged have less evidence than they could.
    min_size : int
        Items on each side at least, default 2.
    """
    n_bound, bound_sums = cluster_sums(features, torch.where(is_bound, labels, -1), n_components, dtype=torch.float64)
    has_bound = n_bound > 0
    _, means, scatters = cluster_statistics(features, labels, n_components)
    anchors = torch.where(has_bound[:, None], bound_sums / n_bound.clamp(min=1)[:, None], means)
    axes = torch.linalg.eigh(scatters).eigenvectors[..., -n_axes:]
    best = SplitProposals(anchors.new_full((n_components,), -math.inf), torch.zeros_like(is_bound))
    for axis in axes.unbind(-1):
        for direction in (axis, torch.where(has_bound[:, None], -axis, 0)):
            start = _projections(features, labels, direction, (anchors * direction).sum(-1)) > 0
            side = two_means(features, labels, is_bound, start & ~is_bound, n_components, n_steps=n_steps)
            halves = cluster_statistics(
                features, 2 * labels + side, 2 * n_components, with_scatters=evidence.needs_scatters
            )
            first, second = (halves.at(torch.arange(part, 2 * n_components, 2)) for part in (0, 1))
            has_both = torch.minimum(first.counts, second.counts) >= min_size
            ratio = log_split_ratio(evidence, first, second, concentration=concentration).where(has_both, -math.inf)
            is_better = ratio > best.log_ratio
            best = SplitProposals(
                torch.maximum(ratio, best.log_ratio), torch.where(is_better[labels], side, best.is_second)
            )
    return best


def two_means(
    features: Tensor, labels: Tensor, is_bound: Tensor, is_second: Tensor, n_components: int, *, n_steps: int
) -> Tensor:
    """Run 2-means inside every component at once, from the sides ``is_second`` (n,), bool; return the new sides."""
    for _ in range(n_steps):
        counts, sums = cluster_sums(features, 2 * labels + is_second, 2 * n_components, dtype=features.dtype)
        centers = (sums / counts.clamp(min=1)[:, None]).view(n_components, 2, -1)
        direction = centers[:, 1] - centers[:, 0]
        side = _projections(features, labels, direction, (centers.mean(1) * direction).sum(-1)) > 0
        side &= ~is_bound & (counts.view(n_components, 2) > 0).all(-1)[labels]
        (n_moved,) = all_sum((side != is_second).sum().double())
        is_second = side
        if n_moved == 0:
            break
    return is_second


def _projections(features: Tensor, labels: Tensor, directions: Tensor, offsets: Tensor) -> Tensor:
    """Return x_i · w_k - o_k with k the component of row i, shape (n,)."""
    w, o = directions.to(features.dtype), offsets.to(features.dtype)
    parts = zip(torch.split(features, _CHUNK), torch.split(labels, _CHUNK), strict=True)
    return torch.cat([torch.linalg.vecdot(rows, w[owners]) - o[owners] for rows, owners in parts])
