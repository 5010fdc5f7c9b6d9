"""Which method is best and how far the others lie behind, by loops over episodes in plain numbers."""

from __future__ import annotations

import math


def mean_of(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def half_width_of(values: list[float]) -> float:
    """1.96 standard errors, n - 1 in the variance."""
    mean = mean_of(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return 1.96 * math.sqrt(variance / len(values))


def behind_best_loops(accuracies: list[list[float]]) -> list[tuple[float, float, bool]]:
    """Return mean and half-width of best minus own, and whether the interval holds zero."""
    best = accuracies[0]
    for row in accuracies[1:]:
        if mean_of(row) > mean_of(best):
            best = row
    found = []
    for row in accuracies:
        differences = [one - other for one, other in zip(best, row, strict=True)]
        mean, half_width = mean_of(differences), half_width_of(differences)
        found.append((mean, half_width, mean <= half_width))
    return found
