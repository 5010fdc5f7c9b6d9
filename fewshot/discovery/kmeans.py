r"""Semi-supervised k-means: labelled items stay with their class, the others go to the nearest of all centers.

Minimises ``Σ_{i labelled} ‖x_i - c_{y_i}‖² + Σ_{i unlabelled} min_k ‖x_i - c_k‖²``, by turns over assignments and
centers. Rows are read in blocks, shifted and scaled on the way so that no square overflows; no copy of the features is
made and no distance to all centers is kept.

Source: [GCD] §3.3 and the released code; Arthur and Vassilvitskii, "k-means++", SODA 2007, for the draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.centers import block_size, inertia, nearest_centers, power_of_two, squared_distances
from fewshot.prototypes import one_hot

__all__ = ["KMeansResult", "kmeans_plus_plus", "semi_supervised_kmeans"]


class KMeansResult(NamedTuple):
    """The best of some runs of semi-supervised k-means.

    Attributes
    ----------
    labels : Tensor (n,), int64
        The cluster of each row; a labelled row's is its class, another's is that of the nearest center.
    centers : Tensor (n_clusters, n_features)
        Those of the known classes first.
    inertia : float
        Σ_i ‖x_i - c_{labels_i}‖², of these labels and these centers.
    objective : Tensor (n_steps,), float64
        The same sum after the assignment of each step; it never rises.
    """

    labels: Tensor
    centers: Tensor
    inertia: float
    objective: Tensor


def semi_supervised_kmeans(
    features: Tensor,
    labels: Tensor,
    n_clusters: int,
    *,
    generator: torch.Generator,
    n_init: int = 10,
    n_steps: int = 100,
    tolerance: float = 1e-4,
    initial_centers: Tensor | None = None,
) -> KMeansResult:
    """Cluster a pool that is labelled in part; the best of some runs.

    A run starts from the means of the known classes and, for the rest, from unlabelled rows drawn by
    `kmeans_plus_plus`.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        Known classes 0, 1, ..., each at least once, and -1 for a row without a label.
    n_clusters : int
        At least the number of known classes.
    generator : torch.Generator
        Decides the starts.
    n_init : int
        Runs; the one of lowest inertia is kept. Default 10, as in [GCD]'s code. Only one is made where there is nothing
        to draw.
    n_steps : int
        At most so many assignments a run. Default 100.
    tolerance : float
        A run ends when Σ_k ‖Δc_k‖² is at most this times the mean variance of a feature. Default 1e-4.
    initial_centers : Tensor (n_clusters, n_features), optional
        Start one run from these.

    Returns
    -------
    KMeansResult

    Notes
    -----
    Without a label it is k-means. The authors' tolerance is absolute; relative to the variance, as in scikit-learn, the
    answer does not depend on the unit. An empty cluster takes the unlabelled row that is farthest from its center, so
    that the objective still falls; with fewer distinct rows than clusters it stays empty and keeps its center (the
    authors' becomes NaN). The inertia is that of the returned labels and centers. Not differentiable.

    Source
    ------
    [GCD] §3.3 and the released code.

    Examples
    --------
    >>> rows = torch.tensor([[0.0], [1.0], [10.0], [11.0], [2.0]])
    >>> found = semi_supervised_kmeans(rows, torch.tensor([0, -1, -1, -1, 0]), 2, generator=torch.Generator())
    >>> found.labels.tolist(), found.centers.flatten().tolist(), found.inertia
    ([0, 0, 1, 1, 0], [1.0, 10.5], 2.5)
    """
    pool = _Pool(features, labels, n_clusters)
    if initial_centers is not None:
        starts = [initial_centers]
    else:
        is_drawn = n_clusters > pool.n_known and len(pool.free) > 0
        starts = [_start(pool, generator) for _ in range(n_init if is_drawn else 1)]
    runs = [_run(pool, pool.inward(start), n_steps, tolerance) for start in starts]
    best = min(runs, key=lambda run: run.inertia)
    centers = pool.outward(best.centers)
    found = torch.where(labels >= 0, labels, nearest_centers(features, centers)[1])
    return KMeansResult(found, centers, inertia(features, centers, found), best.objective)


def kmeans_plus_plus(
    features: Tensor,
    centers_so_far: Tensor,
    n_centers: int,
    *,
    generator: torch.Generator,
    is_candidate: Tensor | None = None,
) -> Tensor:
    """Draw rows to start clusters from, each with P(i) ∝ min_j ‖x_i - c_j‖² over all centers so far.

    Parameters
    ----------
    features : Tensor (n, n_features)
    centers_so_far : Tensor (n_centers_so_far, n_features)
        May be none: then the first row is drawn uniformly.
    n_centers : int
        How many rows to draw.
    generator : torch.Generator
    is_candidate : Tensor (n,), bool, optional
        Rows that may be drawn, at least one; default all.

    Returns
    -------
    Tensor (n_centers,), int64
        Rows. A row that lies on a center is drawn only if all candidates do.

    Source
    ------
    Arthur and Vassilvitskii, SODA 2007; on unlabelled rows, with the labelled means as centers, as in [GCD]'s code.

    Examples
    --------
    >>> rows = torch.tensor([[0.0], [0.0], [5.0]])
    >>> kmeans_plus_plus(rows, torch.zeros(1, 1), 1, generator=torch.Generator()).tolist()
    [2]
    """
    is_candidate = features.new_ones(len(features), dtype=torch.bool) if is_candidate is None else is_candidate
    unit = power_of_two(features.abs().amax())
    squared = torch.ones_like(features[:, 0])
    if len(centers_so_far):
        squared = _squared_to(features, centers_so_far[nearest_centers(features, centers_so_far)[1]], unit)
    rows: list[int] = []
    for _ in range(n_centers):
        rows.append(_draw(squared * is_candidate, is_candidate, generator))
        gap = _squared_to(features, features[rows[-1:]], unit)
        squared = torch.minimum(squared, gap) if len(centers_so_far) + len(rows) > 1 else gap
    return torch.tensor(rows, dtype=torch.int64, device=features.device)


class _Run(NamedTuple):
    centers: Tensor
    inertia: float
    objective: Tensor


class _Assignment(NamedTuple):
    centers: Tensor  # with those of refilled clusters in their new place
    counts: Tensor
    sums: Tensor
    n_refilled: int


class _Pool:
    """The rows of a run in blocks: centered, scaled by a power of two to at most 1."""

    def __init__(self, features: Tensor, labels: Tensor, n_clusters: int) -> None:
        self.features, self.n_clusters = features, n_clusters
        self.n_known = int(labels.max()) + 1
        self.free, fixed = torch.nonzero(labels < 0)[:, 0], torch.nonzero(labels >= 0)[:, 0]
        self._shift = features.mean(0, dtype=torch.float64).to(features.dtype)
        low, high = torch.aminmax(features, dim=0)
        reach = torch.maximum(high - self._shift, self._shift - low).amax()
        self._unit = power_of_two(reach)
        self.counts = torch.bincount(labels[fixed], minlength=n_clusters).double()
        self.sums = features.new_zeros((n_clusters, features.shape[1]), dtype=torch.float64)
        self.total = 0.0
        for index, rows in self.blocks(fixed):
            self.sums += _cluster_sums(rows, labels[index], n_clusters)
            self.total += float(rows.double().square().sum())
        self.total += sum(float(rows.double().square().sum()) for _, rows in self.blocks(self.free))

    def blocks(self, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for part in torch.split(index, block_size(self.features, self.n_clusters)):
            yield part, self.inward(self.features[part])

    def inward(self, rows: Tensor) -> Tensor:
        return (rows - self._shift).mul_(1 / self._unit)

    def outward(self, rows: Tensor) -> Tensor:
        return rows * self._unit + self._shift

    def objective(self, counts: Tensor, sums: Tensor, centers: Tensor) -> float:
        """Return ``Σ‖x‖² - 2 Σ_k c_k·s_k + Σ_k n_k ‖c_k‖²``."""
        wide = centers.double()
        value = self.total - 2 * (wide * sums).sum() + (counts * wide.square().sum(1)).sum()
        return float(value.clamp(min=0) * self._unit.double().square())


def _start(pool: _Pool, generator: torch.Generator) -> Tensor:
    """Return the means of the known classes and rows drawn for the others."""
    n_known = pool.n_known
    means = pool.outward((pool.sums[:n_known] / pool.counts[:n_known, None]).to(pool.features.dtype))
    n_new = pool.n_clusters - n_known
    is_free = torch.zeros_like(pool.features[:, 0], dtype=torch.bool)
    is_free[pool.free] = True
    is_candidate = is_free if len(pool.free) else ~is_free
    drawn = kmeans_plus_plus(pool.features, means, n_new, generator=generator, is_candidate=is_candidate)
    return torch.cat([means, pool.features[drawn]])


def _run(pool: _Pool, centers: Tensor, n_steps: int, tolerance: float) -> _Run:
    """Assign and average until the centers converge."""
    limit = tolerance * pool.total / pool.features.numel()
    trace = []
    for _ in range(n_steps):
        found = _assign(pool, centers)
        trace.append(pool.objective(found.counts, found.sums, found.centers))
        means = (found.sums / found.counts.clamp(min=1)[:, None]).to(centers.dtype)
        centers = torch.where(found.counts[:, None] > 0, means, found.centers)
        if not found.n_refilled and float((centers - found.centers).double().square().sum()) <= limit:
            break
    last = pool.objective(found.counts, found.sums, centers)
    return _Run(centers, last, torch.tensor(trace, dtype=torch.float64, device=centers.device))


def _assign(pool: _Pool, centers: Tensor) -> _Assignment:
    """Assign each unlabelled row to its nearest center; sum counts and rows of the clusters."""
    counts, sums = pool.counts.clone(), pool.sums.clone()
    parts = []
    for _, rows in pool.blocks(pool.free):
        squared, own = squared_distances(rows, centers).min(1)
        parts.append((squared, own))
        counts += torch.bincount(own, minlength=pool.n_clusters)
        sums += _cluster_sums(rows, own, pool.n_clusters)
    found = _Assignment(centers, counts, sums, 0)
    if not parts or bool((counts > 0).all()):
        return found
    return _refill(pool, found, *(torch.cat(part) for part in zip(*parts, strict=True)))


def _refill(pool: _Pool, found: _Assignment, squared: Tensor, own: Tensor) -> _Assignment:
    """Give each empty cluster one of the rows that are farthest from their centers, unless they lie on them."""
    empty = torch.nonzero(found.counts == 0)[:, 0]
    far = squared.topk(min(len(empty), len(squared))).indices
    rows = pool.inward(pool.features[pool.free[far]])
    noise = rows.shape[1] * (10 * torch.finfo(rows.dtype).eps) ** 2
    is_apart = (rows - found.centers[own[far]]).square().sum(1) > noise
    rows, source = rows[is_apart], own[far][is_apart]
    target = empty[: len(rows)]
    index, sign = torch.cat([source, target]), rows.new_ones(2 * len(rows), dtype=torch.float64)
    sign[: len(rows)] = -1
    counts = found.counts.index_add(0, index, sign)
    sums = found.sums.index_add(0, index, sign[:, None] * rows.double().repeat(2, 1))
    return _Assignment(found.centers.index_copy(0, target, rows), counts, sums, len(rows))


def _cluster_sums(rows: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """Return the sum of each cluster's rows; by a product where adding at an index has no fixed order."""
    if rows.device.type != "cpu":
        return one_hot(labels, n_clusters, rows.dtype).mT @ rows
    return rows.new_zeros((n_clusters, rows.shape[1])).index_add_(0, labels, rows)


def _squared_to(features: Tensor, centers: Tensor, unit: Tensor) -> Tensor:
    """Return the squared distance (n,), over unit², of each row to its center, or to the one for all."""
    centers = centers.expand_as(features)
    size = block_size(features, 1)
    blocks = zip(torch.split(features, size), torch.split(centers, size), strict=True)
    return torch.cat([((rows - own) * (1 / unit)).square().sum(1) for rows, own in blocks])


def _draw(weights: Tensor, is_candidate: Tensor, generator: torch.Generator) -> int:
    """Return a row with probability in proportion to its weight; where all are 0, any candidate."""
    cumulative = weights.double().cpu().cumsum(0)
    if float(cumulative[-1]) <= 0:
        cumulative = is_candidate.double().cpu().cumsum(0)
    uniform = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device).cpu()
    return int(torch.searchsorted(cumulative, (1 - uniform) * cumulative[-1]))
