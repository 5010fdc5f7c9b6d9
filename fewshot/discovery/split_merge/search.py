r"""Split and merge: the number of components of a pool, from any number at the start.

A round, until no proposal is accepted:

1. **split**: every component is split in two by 2-means, all components at once. A labelled component's labelled rows
   stay together, so it can only split off unlabelled ones (a **shed** in the trace). Accepted where log H_s > 0.
2. **merge**: every component is compared with its nearest ones; two labelled ones never. Accepted where log H_m > 0 and
   each is the other's best partner, so that a component merges at most once a round.

After each, hard EM moves the unlabelled rows; empty components are dropped, labelled ones never. All is computed from
sums over rows, so that rows may come in any order and lie in several processes.

Source: [GPC] §3 and [DEEPDPM] for split and merge; splitting unlabelled rows off labelled classes is ours: without it
the number of components stays at that of the labelled classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.split_merge.evidence import Evidence, collapsed_objective, log_merge_ratio
from fewshot.discovery.split_merge.partition import Partition, hard_em, keep_components, start_partition
from fewshot.discovery.split_merge.splits import propose_splits
from fewshot.discovery.split_merge.trace import Proposal, Round, proposals_of
from fewshot.discovery.statistics import ClusterStatistics, cluster_statistics
from fewshot.distributed import all_sum

__all__ = ["Discovery", "discover_components", "near_pairs"]

_CHUNK = 16384


class Discovery(NamedTuple):
    """The outcome of split and merge.

    Attributes
    ----------
    labels : Tensor (n,), int64
        In [0, n_components); k below the number of labelled classes is labelled class k, with all its labelled rows.
    component_ids : Tensor (n_components,)
        The running ids of the components in the trace.
    rounds : list of Round
    proposals : list of Proposal
    is_converged : bool
        The last round accepted nothing.
    next_id : int
        Above every id in use.
    """

    labels: Tensor
    component_ids: Tensor
    rounds: list[Round]
    proposals: list[Proposal]
    is_converged: bool
    next_id: int

    @property
    def n_components(self) -> int:
        """The number of components."""
        return len(self.component_ids)

    @property
    def partition(self) -> Partition:
        """The labels and ids as a partition."""
        return Partition(self.labels, self.component_ids)


@torch.no_grad()
def discover_components(
    features: Tensor,
    labels: Tensor,
    n_known: int,
    evidence: Evidence,
    *,
    start: Partition | None = None,
    concentration: float = 1.0,
    n_rounds: int = 20,
    n_neighbors: int = 3,
    patience: int = 3,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Discovery:
    """Find the components of a pool by splitting and merging.

    Parameters
    ----------
    features : Tensor (n, n_features)
        In a space where the covariance within classes is about the identity, see `fewshot.discovery.space`.
    labels : Tensor (n,), int64
        The labelled class in [0, n_known), or -1.
    n_known : int
    evidence : Evidence
        The model of one class.
    start : Partition, optional
        Its first n_known components hold the labelled classes. Default: unlabelled rows with the nearest labelled
        class, or one component where there is none.
    concentration : float
        α of the Dirichlet process, default 1.
    n_rounds : int
        At most, default 20.
    n_neighbors : int
        Nearest components that a merge is tried with, default 3; DeepDPM's 2.
    patience : int
        Rounds without a better collapsed objective after which the best partition is returned, so that a cycle of
        splits and merges ends. Default 3.
    generator : torch.Generator, optional
        Accept with probability min(1, H), as Metropolis and Hastings; else wherever log H > 0.
    progress : callable, optional
        Called with the number of rounds done, and of rounds at most.

    Returns
    -------
    Discovery

    Notes
    -----
    Without ``generator`` nothing is random. Rotating or shifting the features, or another order of rows, changes
    nothing but rounding and the numbers of the found components. An accepted proposal changes the collapsed objective
    by log H; the EM after it raises the likelihood of the hard assignment instead.

    Source
    ------
    [GPC] §3, without the defects of its released code, which keeps merged components, accepts one proposal in ten
    whatever the evidence, and starts from the true number.
    """
    search = _Search(features, labels, n_known, evidence, concentration, n_neighbors, generator)
    partition, _ = search.settle(start_partition(features, labels, n_known) if start is None else start)
    best, best_value = partition, -math.inf
    n_worse, is_converged = 0, False
    is_open = torch.ones_like(partition.ids, dtype=torch.bool)
    for number in range(n_rounds):
        before = partition
        partition = search.round(number, partition, is_open)
        done = search.rounds[-1]
        if progress is not None:
            progress(number + 1, n_rounds)
        is_better = done.evidence > best_value + 1e-9 * abs(best_value) if math.isfinite(best_value) else True
        if is_better:
            best, best_value = partition, done.evidence
        n_worse = 0 if is_better else n_worse + 1
        is_converged = done.n_sheds + done.n_splits + done.n_merges == 0
        if is_converged or n_worse >= patience:
            break
        is_open = _touched(before, partition) if generator is None else torch.ones_like(partition.ids, dtype=torch.bool)
    return Discovery(best.labels, best.ids, search.rounds, search.proposals, is_converged, search.n_ids)


@dataclass(eq=False)
class _Search:
    """The pool, the settings of a search, and its trace."""

    features: Tensor
    labels: Tensor
    n_known: int
    evidence: Evidence
    concentration: float
    n_neighbors: int
    generator: torch.Generator | None
    rounds: list[Round] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)
    n_ids: int = 0

    def __post_init__(self) -> None:
        squares = [rows.double().square().sum() for rows in torch.split(self.features, _CHUNK)]
        self.squares = float(all_sum(torch.stack(squares).sum())[0])

    def statistics(self, partition: Partition) -> ClusterStatistics:
        """Compute the sufficient statistics that the evidence needs."""
        return cluster_statistics(
            self.features, partition.labels, len(partition.ids), with_scatters=self.evidence.needs_scatters
        )

    def round(self, number: int, partition: Partition, is_open: Tensor) -> Partition:
        """Split, settle, merge, settle; add a row to the trace."""
        n_before = len(partition.ids)
        split, pairs, n_sheds = self.split(number, partition, is_open)
        settled, n_dropped = self.settle(split)
        merged, n_merges = self.merge(number, settled, pairs)
        after, n_more_dropped = self.settle(merged)
        statistics = self.statistics(after)
        self.rounds.append(
            Round(
                n_classes_before=n_before,
                n_sheds=n_sheds,
                n_splits=len(pairs) - n_sheds,
                n_merges=n_merges,
                n_purged=n_dropped + n_more_dropped,
                n_classes=len(after.ids),
                evidence=float(collapsed_objective(self.evidence, statistics, concentration=self.concentration)),
                log_posterior=hard_log_likelihood(statistics, self.squares),
            )
        )
        return after

    def settle(self, partition: Partition) -> tuple[Partition, int]:
        """Run hard EM and drop empty components; return how many were dropped."""
        self.n_ids = max(self.n_ids, int(partition.ids.max()) + 1)
        settled = hard_em(self.features, self.labels, self.n_known, partition)
        return settled, len(partition.ids) - len(settled.ids)

    def split(self, number: int, partition: Partition, is_open: Tensor) -> tuple[Partition, Tensor, int]:
        """Propose and accept splits; return the partition, the new pairs of ids (m, 2), and how many are sheds."""
        open_index = torch.nonzero(is_open)[:, 0]
        if len(open_index) == 0:
            return partition, partition.ids.new_zeros((0, 2)), 0
        place = torch.full_like(partition.ids, -1).index_copy(
            0, open_index, torch.arange(len(open_index)).to(partition.ids)
        )
        rows = torch.nonzero(is_open[partition.labels])[:, 0]
        owners = place[partition.labels[rows]]
        features = self.features[rows] if len(rows) < len(self.features) else self.features
        splits = propose_splits(
            features,
            owners,
            self.labels[rows] >= 0,
            len(open_index),
            self.evidence,
            concentration=self.concentration,
        )
        taken = self.accept(splits.log_ratio)
        new_ids = torch.where(taken, taken.cumsum(0) - 1 + self.n_ids, -1)
        ids = partition.ids[open_index]
        pairs = torch.stack([ids, new_ids], 1)
        is_shed = open_index < self.n_known
        kinds = ["shed" if shed else "split" for shed in is_shed.tolist()]
        self.proposals += proposals_of(number, kinds, ids[:, None], pairs, splits.log_ratio, taken)
        place = torch.where(taken, taken.cumsum(0) - 1 + len(partition.ids), open_index)
        labels = partition.labels.index_copy(
            0, rows, torch.where(splits.is_second, place[owners], partition.labels[rows])
        )
        return Partition(labels, torch.cat([partition.ids, new_ids[taken]])), pairs[taken], int((taken & is_shed).sum())

    def merge(self, number: int, partition: Partition, made: Tensor) -> tuple[Partition, int]:
        """Merge pairs that are each other's best partner; the pairs ``made`` (m, 2) in this round are left alone."""
        statistics = self.statistics(partition)
        first, second = near_pairs(statistics.means, self.n_known, self.n_neighbors)
        ratio = log_merge_ratio(
            self.evidence, statistics.at(first), statistics.at(second), concentration=self.concentration
        )
        ids = torch.stack([partition.ids[first], partition.ids[second]], 1)
        is_made = _codes(ids, self.n_ids + 1)[:, None] == _codes(made, self.n_ids + 1)
        ratio = ratio.masked_fill(is_made.any(1), -math.inf)
        taken = _each_once(ratio, self.accept(ratio), first, second, len(partition.ids))
        self.proposals += proposals_of(number, ["merge"] * len(ids), ids, ids[:, :1], ratio, taken)
        target = torch.arange(len(partition.ids), device=first.device).index_copy(0, second[taken], first[taken])
        is_kept = torch.ones_like(partition.ids, dtype=torch.bool).index_fill(0, second[taken], False)
        return keep_components(Partition(target[partition.labels], partition.ids), is_kept), int(taken.sum())

    def accept(self, log_ratio: Tensor) -> Tensor:
        """Accept where log H > 0, or with probability min(1, H)."""
        if self.generator is None:
            return log_ratio > 0
        coin = torch.rand(log_ratio.shape, generator=self.generator, dtype=torch.float64, device=self.generator.device)
        return coin.to(log_ratio.device).log() < log_ratio


def near_pairs(means: Tensor, n_known: int, n_neighbors: int) -> tuple[Tensor, Tensor]:
    """Return pairs i < j of components of which one is among the other's nearest; never two labelled ones."""
    n = len(means)
    distances = torch.cdist(means, means)
    distances[:n_known, :n_known] = math.inf
    distances.fill_diagonal_(math.inf)
    nearest = distances.topk(min(n_neighbors, n - 1), largest=False)
    i = torch.arange(n, device=means.device)[:, None].expand_as(nearest.indices)[nearest.values.isfinite()]
    j = nearest.indices[nearest.values.isfinite()]
    pairs = torch.unique(torch.minimum(i, j) * n + torch.maximum(i, j))
    return pairs // n, pairs % n


def _each_once(ratio: Tensor, is_candidate: Tensor, first: Tensor, second: Tensor, n: int) -> Tensor:
    """Keep the candidates that are the best of both their components; ties go to the first."""
    rank = torch.empty_like(first)
    rank[ratio.masked_fill(~is_candidate, -math.inf).argsort(descending=True, stable=True)] = torch.arange(
        len(first), device=first.device
    )
    rank = rank.masked_fill(~is_candidate, len(first))
    best = rank.new_full((n,), len(first))
    best = best.scatter_reduce(0, torch.cat([first, second]), torch.cat([rank, rank]), "amin")
    return is_candidate & (rank == best[first]) & (rank == best[second])


def _codes(pairs: Tensor, base: int) -> Tensor:
    """Encode each unordered pair of ids as one number."""
    return pairs.amin(-1) * base + pairs.amax(-1)


def _touched(before: Partition, after: Partition) -> Tensor:
    """Mark the components whose rows changed: the others need no new test."""
    old, new = before.ids[before.labels], after.ids[after.labels]
    size = int(max(before.ids.max(), after.ids.max())) + 1
    moved = torch.cat([old[old != new], new[old != new]])
    (n_moved,) = all_sum(torch.bincount(moved, minlength=size).double())
    return n_moved[after.ids] > 0


def hard_log_likelihood(statistics: ClusterStatistics, squares: float) -> float:
    """Return Σ_i log π_z N(x_i | μ_z, I) of rows in components, nats, given Σ_i ‖x_i‖²."""
    counts, means = statistics.counts, statistics.means
    n, n_features = counts.sum(), means.shape[-1]
    scatter = squares - (counts * means.square().sum(-1)).sum()
    return float(torch.xlogy(counts, counts / n).sum() - 0.5 * (scatter + n * n_features * math.log(2 * math.pi)))
