"""From the number of components that the evidence is for to a number that was asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.discovery.evidence import Evidence, log_merge_ratio
from fewshot.discovery.parting import part_in_two
from fewshot.discovery.split_merge import Partition, hard_em, keep_components, near_pairs
from fewshot.discovery.statistics import cluster_statistics

__all__ = ["reach_n_components"]


@torch.no_grad()
def reach_n_components(
    features: Tensor, labels: Tensor, n_known: int, evidence: Evidence, partition: Partition, n_components: int
) -> Partition:
    """Merge or part, those first for which there is most evidence, until there are ``n_components``.

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

    Returns
    -------
    Partition
        With fewer components where none can be parted any more.
    """
    for _ in range(2 * (abs(len(partition.ids) - n_components) + 1)):
        missing = n_components - len(partition.ids)
        if missing == 0:
            break
        step = _part_best if missing > 0 else _merge_best
        changed = step(features, labels, n_known, evidence, partition, missing)
        if len(changed.ids) == len(partition.ids):
            break
        settled = hard_em(features, labels, n_known, changed)
        partition = settled if len(settled.ids) == len(changed.ids) else changed  # EM may empty what was just parted
    return partition


def _part_best(
    features: Tensor, labels: Tensor, n_known: int, evidence: Evidence, partition: Partition, n_more: int
) -> Partition:
    """Part the ``n_more`` components for which there is most evidence."""
    parts = part_in_two(features, partition.labels, labels >= 0, len(partition.ids), evidence)
    best = parts.log_ratio.argsort(descending=True)[:n_more]
    best = best[parts.log_ratio[best].isfinite()]
    n, new = len(partition.ids), torch.arange(len(best), device=best.device)
    place = torch.arange(n, device=best.device).index_copy(0, best, n + new)
    moved = torch.where(parts.is_second, place[partition.labels], partition.labels)
    return Partition(moved, torch.cat([partition.ids, partition.ids.max() + 1 + new]))


def _merge_best(
    features: Tensor, labels: Tensor, n_known: int, evidence: Evidence, partition: Partition, missing: int
) -> Partition:
    """Merge the pair for which there is most evidence."""
    n = len(partition.ids)
    statistics = cluster_statistics(features, partition.labels, n, with_scatters=evidence.needs_scatters)
    first, second = near_pairs(statistics.means, n_known, n)
    if len(first) == 0:
        return partition
    best = log_merge_ratio(evidence, statistics.at(first), statistics.at(second)).argmax()
    target = torch.where(partition.labels == second[best], first[best], partition.labels)
    return keep_components(Partition(target, partition.ids), torch.arange(n, device=first.device) != second[best])
