"""How many classes a pool holds: a search over whole numbers, each scored once, by one of several criteria."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.discovery.count_scores import Scorer, bic_scorer, hidden_class_scorer, silhouette_scorer
from fewshot.discovery.space import principal_space, project
from fewshot.discovery.split_merge.subspaces import median_count, search_subspace, space_sizes

__all__ = ["N_CLASSES_METHODS", "ClassCount", "CountMethod", "default_bounds", "estimate_n_classes", "search_counts"]

# Numbers in a row, each √2 times the last, that may score below the best so far before the search goes no higher.
_PATIENCE = 5
# Numbers tried between the best and each of its neighbours.
_N_BETWEEN = 3


class ClassCount(NamedTuple):
    """An estimate of the number of classes, and its evidence.

    Attributes
    ----------
    n_classes : int
        The number of the best mean score.
    curve : Tensor (n_tried, 3), float64
        Each number tried, ascending, with the mean and the standard deviation of its score over the seeds.
    interval : tuple of int
        The lowest and highest number that was best for a single seed.
    """

    n_classes: int
    curve: Tensor
    interval: tuple[int, int]


CountMethod: TypeAlias = Callable[[Tensor, Tensor, tuple[int, int], torch.Generator, int], ClassCount]


def estimate_n_classes(
    features: Tensor,
    labels: Tensor,
    *,
    method: str = "auto",
    bounds: tuple[int, int] | None = None,
    generator: torch.Generator,
    n_seeds: int = 5,
    n_rows: int = 20_000,
) -> ClassCount:
    """Estimate how many classes a pool holds, the known ones included.

    Parameters
    ----------
    features : Tensor (n, n_features)
        As they are to be clustered: normalised or reduced first, if at all.
    labels : Tensor (n,), int64
        Known classes 0, 1, ..., each at least once, and -1 for a row without a label.
    method : str
        A name of ``N_CLASSES_METHODS``, or "auto": "hidden-classes" from four known classes on, else "silhouette".
    bounds : tuple of int, optional
        Lowest and highest number. Default: the number of known classes (2 where there are fewer), and the lesser of
        the number of distinct rows and a fifth of all rows.
    generator : torch.Generator
        Decides the draws. The score of a number does not depend on which others are tried.
    n_seeds : int
        Draws that are averaged.
    n_rows : int
        Larger pools are represented by so many rows, drawn at random, and one of each known class.

    Returns
    -------
    ClassCount

    Raises
    ------
    ValueError
        If the method is unknown, or the bounds do not leave the known classes room.

    Notes
    -----
    A number of classes, not a truth: all methods assume that a class is one compact cluster. Without an unlabelled row
    the answer is the number of known classes. See `search_counts` for which numbers are tried.

    Source
    ------
    [GCD] §3.4 for the search by labelled rows, with what differs in `hidden_class_scorer`: the numbers are whole, the
    bounds come from the data, and each number is scored once.

    Examples
    --------
    >>> centers = torch.arange(6.0).repeat_interleave(10)[:, None] * 10
    >>> rows = centers + torch.arange(60)[:, None] % 3
    >>> found = estimate_n_classes(rows, torch.full((60,), -1), generator=torch.Generator().manual_seed(0))
    >>> found.n_classes, found.interval
    (6, (6, 6))
    """
    n_known = int(labels.max()) + 1
    if method == "auto":
        method = "hidden-classes" if n_known >= 4 else "silhouette"
    estimate = N_CLASSES_METHODS[check_choice("method of counting classes", method, N_CLASSES_METHODS)]
    features, labels = _sample_rows(features, labels, n_rows, generator)
    low, high = default_bounds(features, n_known) if bounds is None else bounds
    if not max(n_known, 1) <= low <= high:
        raise ValueError(f"bounds must be at least the {n_known} known classes and ascend, got {(low, high)}")
    if bool((labels >= 0).all()) or low == high:
        only = n_known if bool((labels >= 0).all()) else low
        return ClassCount(only, torch.zeros((0, 3), dtype=torch.float64), (only, only))
    return estimate(features, labels, (low, high), generator, n_seeds)


def search_counts(score: Callable[[int], Tensor], bounds: tuple[int, int]) -> ClassCount:
    """Find the whole number of the highest mean score, trying few of them and each once.

    First numbers √2 apart, upwards, until five in a row lie below the best; then some between the best and its
    neighbours, until these are adjacent.

    Parameters
    ----------
    score : callable
        From a number to its scores (n_seeds,), float64.
    bounds : tuple of int
        Lowest and highest number.

    Returns
    -------
    ClassCount

    Notes
    -----
    The coarse numbers are the same whatever the bounds, so that wider bounds change an inner optimum only if a better
    one lies outside. Exact where the curve rises to its maximum and falls; another may hide between coarse numbers.

    Examples
    --------
    >>> found = search_counts(lambda k: -(torch.tensor([k - 19.0, k - 21.0]).double() ** 2), (2, 500))
    >>> found.n_classes, found.interval, len(found.curve)
    (20, (19, 21), 21)
    """
    tried: dict[int, Tensor] = {}
    below = 0
    for number in _coarse_numbers(bounds):
        best = max((float(scores.mean()) for scores in tried.values()), default=-torch.inf)
        tried[number] = score(number)
        below = below + 1 if float(tried[number].mean()) < best else 0
        if below >= _PATIENCE:
            break
    while numbers := _between(sorted(tried), _best(tried)):
        tried |= {number: score(number) for number in numbers}
    return _counted(tried)


def _coarse_numbers(bounds: tuple[int, int]) -> list[int]:
    low, high = bounds
    steps = 2 * (high.bit_length() + 1)
    return sorted({low, high} | {n for n in (round(2 ** (step / 2)) for step in range(steps)) if low < n < high})


def _best(tried: dict[int, Tensor]) -> int:
    """Return the lowest number of the highest mean."""
    return max(sorted(tried), key=lambda number: float(tried[number].mean()))


def _between(numbers: list[int], best: int) -> set[int]:
    """Return some numbers between the best and the next on either side."""
    place = numbers.index(best)
    around = numbers[max(0, place - 1) : place + 2]
    steps = range(1, _N_BETWEEN + 1)
    return {low + (high - low) * i // (_N_BETWEEN + 1) for low, high in pairwise(around) for i in steps} - set(numbers)


def _counted(tried: dict[int, Tensor]) -> ClassCount:
    numbers = sorted(tried)
    scores = torch.stack([tried[number] for number in numbers])
    values = torch.tensor(numbers, dtype=torch.float64, device=scores.device)
    curve = torch.stack([values, scores.mean(1), scores.std(1, correction=0)], 1)
    each = [numbers[index] for index in scores.argmax(0).tolist()]
    return ClassCount(_best(tried), curve, (min(each), max(each)))


def _scored(make: Callable[[Tensor, Tensor, torch.Generator], Scorer]) -> CountMethod:
    """Return the method that searches for the best of a score."""

    def estimate(
        features: Tensor, labels: Tensor, bounds: tuple[int, int], generator: torch.Generator, n_seeds: int
    ) -> ClassCount:
        seeds = torch.randint(2**40, (n_seeds,), generator=generator, device=generator.device).tolist()
        scorers = [make(features, labels, torch.Generator().manual_seed(seed)) for seed in seeds]

        def score(number: int) -> Tensor:
            draws = [torch.Generator().manual_seed(seed + number) for seed in seeds]
            values = [scorer(number, draw) for scorer, draw in zip(scorers, draws, strict=True)]
            return torch.tensor(values, dtype=torch.float64)

        return search_counts(score, bounds)

    return estimate


def _sample_rows(features: Tensor, labels: Tensor, n_rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return some rows at random, and one more of each known class."""
    if len(features) <= n_rows:
        return features, labels
    order = torch.randperm(len(features), generator=generator, device=generator.device).to(labels.device)
    known = labels[order]
    first = torch.full((int(labels.max()) + 2,), len(order), device=order.device)
    first = first.scatter_reduce(0, known + 1, torch.arange(len(order), device=order.device), "amin")[1:]
    chosen = order[torch.unique(torch.cat([torch.arange(n_rows, device=order.device), first]))]
    return features[chosen], labels[chosen]


def default_bounds(features: Tensor, n_known: int) -> tuple[int, int]:
    """Return the number of known classes, or 2, and the lesser of distinct rows and a fifth of all rows."""
    n_distinct = _n_distinct(features)
    low = max(n_known, min(2, n_distinct), 1)
    return low, max(low, min(n_distinct, len(features) // 5))


def _n_distinct(features: Tensor) -> int:
    """Count distinct rows by where they fall on a line in a fixed, arbitrary direction."""
    direction = torch.arange(1, features.shape[1] + 1, dtype=torch.float64, device=features.device).mul(12.9898).sin()
    places = [(rows.double() * direction).sum(1) for rows in torch.split(features, 4096)]
    return len(torch.unique(torch.cat(places)))


def _split_merge(
    features: Tensor, labels: Tensor, bounds: tuple[int, int], generator: torch.Generator, n_seeds: int
) -> ClassCount:
    """Count the classes that split and merge finds; the score of a number is the share of seeds that found it."""
    n_known = int(labels.max()) + 1
    sizes = space_sizes("auto", n_known)
    projected = project(principal_space(features, sizes[-1]), features)
    counts = []
    for _ in range(n_seeds):
        tried = [
            search_subspace(projected[:, :size], labels, n_known, generator=generator)
            for size in sorted({min(size, projected.shape[1]) for size in sizes})
        ]
        counts.append(min(max(median_count(tried), bounds[0]), bounds[1]))
    numbers, found = torch.unique(torch.tensor(counts, dtype=torch.float64), return_counts=True)
    curve = torch.stack([numbers, found / n_seeds, torch.zeros_like(numbers)], 1)
    return ClassCount(round(sum(counts) / n_seeds), curve, (min(counts), max(counts)))


N_CLASSES_METHODS: dict[str, CountMethod] = {
    "split-merge": _split_merge,
    "hidden-classes": _scored(hidden_class_scorer),
    "silhouette": _scored(silhouette_scorer),
    "bic": _scored(bic_scorer),
}
