"""Adjustment of a partition to a requested number of components."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.discovery.split_merge.evidence import Evidence, log_merge_ratio
from fewshot.discovery.split_merge.partition import Partition, hard_em, keep_components
from fewshot.discovery.split_merge.search import near_pairs
from fewshot.discovery.split_merge.splits import propose_splits
from fewshot.discovery.statistics import cluster_statistics

__all__ = ["adjust_to_n_components"]


@torch.no_grad()
def adjust_to_n_components(
    features: Tensor,
    labels: Tensor,
    n_known: int,
    evidence: Evidence,
    partition: Partition,
    n_components: int,
    *,
    next_id: int | None = None,
) -> Partition:
    """Merge or split the components of highest evidence first, until there are ``n_components``.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        The labelled class in [0, n_known), or -1.
    n_known : int
    evidence : Evidence
    partition : Partition
    n_components : int
        At least n_known.
    next_id : int, optional
        The id of the next new component. Default: above all in ``partition``.

    Returns
    -------
    Partition
        With fewer components where none can be split any more.
    """
    next_id = int(partition.ids.max()) + 1 if next_id is None else next_id
    for _ in range(2 * (abs(len(partition.ids) - n_components) + 1)):
        missing = n_components - len(partition.ids)
        if missing == 0:
            break
        if missing > 0:
            changed = _split_best(features, labels, evidence, partition, missing, next_id)
        else:
            changed = _merge_best(features, n_known, evidence, partition)
        if len(changed.ids) == len(partition.ids):
            break
        next_id = max(next_id, int(changed.ids.max()) + 1)
        settled = hard_em(features, labels, n_known, changed)
        partition = (
            settled if len(settled.ids) == len(changed.ids) else changed
        )  # EM may empty the component that was just split
    return partition


def _split_best(
    features: Tensor, labels: Tensor, evidence: Evidence, partition: Partition, n_more: int, next_id: int
) -> Partition:
    """Split the ``n_more`` components whose splits have the highest evidence."""
    splits = propose_splits(features, partition.labels, labels >= 0, len(partition.ids), evidence)
    best = splits.log_ratio.argsort(descending=True)[:n_more]
    best = best[splits.log_ratio[best].isfinite()]
    n, new = len(partition.ids), torch.arange(len(best), device=best.device)
    place = torch.arange(n, device=best.device).index_copy(0, best, n + new)
    moved = torch.where(splits.is_second, place[partition.labels], partition.labels)
    return Partition(moved, torch.cat([partition.ids, next_id + new]))


def _merge_best(features: Tensor, n_known: int, evidence: Evidence, partition: Partition) -> Partition:
    """Merge the pair of highest evidence."""
    n = len(partition.ids)
    statistics = cluster_statistics(features, partition.labels, n, with_scatters=evidence.needs_scatters)
    first, second = near_pairs(statistics.means, n_known, n)
    if len(first) == 0:
        return partition
    best = log_merge_ratio(evidence, statistics.at(first), statistics.at(second)).argmax()
    target = torch.where(partition.labels == second[best], first[best], partition.labels)
    return keep_components(Partition(target, partition.ids), torch.arange(n, device=first.device) != second[best])
