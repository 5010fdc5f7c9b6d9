"""Search of one pool in several principal subspaces, and the median of their numbers of classes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.space import whiten_within
from fewshot.discovery.split_merge.evidence_power import PowerSearch, find_power, two_covariance
from fewshot.discovery.split_merge.partition import start_partition
from fewshot.discovery.split_merge.search import Discovery, discover_components

__all__ = ["POWER_WITHOUT_LABELS", "SubspaceRun", "median_count", "search_subspace", "space_sizes"]


# Where fewer than two classes are known none can be held out. A guess from frozen features of photographs.
POWER_WITHOUT_LABELS = 0.4


class SubspaceRun(NamedTuple):
    """The outcome of the search in one subspace.

    Attributes
    ----------
    basis : Tensor (n_dims, n_dims), float64
        From the principal directions to the whitened subspace.
    variances : Tensor (n_dims,), float64
    search : PowerSearch
    found : Discovery
    """

    basis: Tensor
    variances: Tensor
    search: PowerSearch
    found: Discovery


def space_sizes(n_dims: str | int | Sequence[int], n_known: int) -> list[int]:
    """List the sizes of the subspaces to search, ascending.

    "auto" is as many directions as there are known classes, twice and four times as many, within 8 and 256: classes
    differ in no more directions than there are classes, and the number of unknown ones is not known.
    64 where fewer than two classes are known.

    Examples
    --------
    >>> space_sizes("auto", 25), space_sizes("auto", 3), space_sizes("auto", 0), space_sizes(32, 25)
    ([25, 50, 100], [8, 12], [64], [32])
    """
    if isinstance(n_dims, str):
        n_dims = [min(max(times * n_known, 8), 256) for times in (1, 2, 4)] if n_known >= 2 else 64
    return sorted({n_dims} if isinstance(n_dims, int) else set(n_dims))


def search_subspace(
    projected: Tensor,
    labels: Tensor,
    n_known: int,
    *,
    generator: torch.Generator,
    power: float | None = None,
    concentration: float = 1.0,
    n_start: int | None = None,
    n_rounds: int = 20,
    is_stochastic: bool = False,
    progress: Callable[[int], None] | None = None,
) -> SubspaceRun:
    """Find the power, unless it is given, and then the components, in a principal subspace.

    Parameters
    ----------
    projected : Tensor (n, n_dims)
        Centered, see `fewshot.discovery.space.principal_space`.
    labels : Tensor (n,), int64
        In [0, n_known), or -1.
    n_known : int
        Below 2, where no power is given, it is ``POWER_WITHOUT_LABELS``.
    generator : torch.Generator
        Draws the halves to hold out, the starts beyond the known classes, and the acceptance of proposals.
    power, concentration, n_start, n_rounds, is_stochastic
        See `CategoryDiscovery`.
    progress : callable, optional
        Called with the number of powers tried.
    """
    if power is None and n_known < 2:
        power = POWER_WITHOUT_LABELS
    search = PowerSearch(power, []) if power is not None else None
    if search is None:
        search = find_power(
            projected, labels, n_known, generator=generator, concentration=concentration, progress=progress
        )
    basis, variances = whiten_within(projected, labels, n_known)
    rows = projected @ basis.to(projected.dtype)
    found = discover_components(
        rows,
        labels,
        n_known,
        two_covariance(variances, search.power),
        start=start_partition(rows, labels, n_known, n_start, generator=generator),
        concentration=concentration,
        n_rounds=n_rounds,
        generator=generator if is_stochastic else None,
    )
    return SubspaceRun(basis, variances, search, found)


def median_count(runs: Sequence[SubspaceRun]) -> int:
    """Return the median number of components, as a whole number.

    Subspaces of different sizes err in different ways; the median ignores an outlier.
    """
    return round(statistics.median(each.found.n_components for each in runs))
