"""Partitions of rows into components: the start of a search, and hard EM."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.kmeans import kmeans_plus_plus
from fewshot.discovery.statistics import cluster_sums
from fewshot.distributed import all_sum

__all__ = ["Partition", "hard_em", "keep_components", "start_partition"]

_CHUNK = 16384


class Partition(NamedTuple):
    """An assignment of rows to components.

    Attributes
    ----------
    labels : Tensor (n,), int64
        In [0, n_components).
    ids : Tensor (n_components,), int64
        Running ids: a component keeps its own from round to round.
    """

    labels: Tensor
    ids: Tensor


def start_partition(
    features: Tensor,
    labels: Tensor,
    n_known: int,
    n_components: int | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Partition:
    """Assign every unlabelled row to its nearest center: labelled means, and more drawn by k-means++.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        The labelled class in [0, n_known), or -1.
    n_known : int
    n_components : int, optional
        At least n_known. Default: n_known, or 1.
    generator : torch.Generator, optional
        Draws the centers above n_known.
    """
    counts, sums = cluster_sums(features, labels, n_known, dtype=torch.float64)
    centers = (sums / counts[:, None]).to(features.dtype)
    n_more = 0 if n_components is None else n_components - n_known
    if n_more > 0 and generator is not None:
        free = torch.nonzero(labels < 0)[:, 0]
        drawn = kmeans_plus_plus(features[free], centers, min(n_more, len(free)), generator=generator)
        centers = torch.cat([centers, features[free[drawn]]])
    ids = torch.arange(max(1, len(centers)), device=labels.device)
    if len(centers) == 0:
        return Partition(torch.zeros_like(labels), ids)
    nearest = _best_component(features, centers, -0.5 * centers.square().sum(-1))
    return Partition(torch.where(labels >= 0, labels, nearest), ids)


@torch.no_grad()
def hard_em(features: Tensor, labels: Tensor, n_known: int, partition: Partition, *, n_steps: int = 20) -> Partition:
    """Move unlabelled rows to their most probable component, and components to the means of their rows.

    ``z_i = argmax_k log π_k - ½ ‖x_i - μ_k‖²``, until no row moves or ``n_steps`` are done; empty components
    are dropped, labelled ones never.

    Parameters
    ----------
    features : Tensor (n, n_features)
        In a space where the covariance within classes is about the identity.
    labels : Tensor (n,), int64
        The labelled class in [0, n_known), or -1.
    n_known : int
    partition : Partition
    n_steps : int
        Default 20.
    """
    is_free = labels < 0
    for step in range(n_steps + 1):
        counts, sums = cluster_sums(features, partition.labels, len(partition.ids), dtype=features.dtype)
        is_kept = (counts > 0).index_fill(0, torch.arange(n_known, device=counts.device), True)
        partition = keep_components(partition, is_kept)
        counts, means = counts[is_kept], (sums / counts.clamp(min=1)[:, None])[is_kept]
        if step == n_steps:
            break
        offsets = counts.log() - 0.5 * means.square().sum(-1)
        moved = torch.where(is_free, _best_component(features, means, offsets), partition.labels)
        (n_moved,) = all_sum((moved != partition.labels).sum().double())
        if n_moved == 0:
            break
        partition = Partition(moved, partition.ids)
    return partition


def keep_components(partition: Partition, is_kept: Tensor) -> Partition:
    """Drop components (n_components,) that hold no row; those after them move up."""
    place = is_kept.cumsum(0) - 1
    return Partition(place[partition.labels], partition.ids[is_kept])


def _best_component(features: Tensor, means: Tensor, offsets: Tensor) -> Tensor:
    weights, offsets = means.to(features.dtype).mT.contiguous(), offsets.to(features.dtype)
    size = max(1, _CHUNK * 128 // len(means))
    return torch.cat([torch.addmm(offsets, rows, weights).argmax(-1) for rows in torch.split(features, size)])
