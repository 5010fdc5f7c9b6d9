"""Choosing among candidates, by loops in float64."""

from __future__ import annotations

import math


def differences(accuracies: list[list[list[float]]]) -> list[tuple[float, float]]:
    """Return mean and standard error of each candidate's difference to the first; regime, candidate, episode."""
    n_regimes, n_candidates, n_episodes = len(accuracies), len(accuracies[0]), len(accuracies[0][0])
    found = []
    for candidate in range(n_candidates):
        gains = []
        for episode in range(n_episodes):
            # a_ce - a_0e, each regime counting the same
            gain = 0.0
            for regime in range(n_regimes):
                gain += (accuracies[regime][candidate][episode] - accuracies[regime][0][episode]) / n_regimes
            gains.append(gain)
        mean = sum(gains) / n_episodes
        variance = sum((gain - mean) ** 2 for gain in gains) / (n_episodes - 1)
        found.append((mean, math.sqrt(variance / n_episodes)))
    return found


def chosen(accuracies: list[list[list[float]]], z: float) -> int:
    """Return the best candidate whose difference is beyond z standard errors, or the first."""
    best, best_mean = 0, 0.0
    for candidate, (mean, error) in enumerate(differences(accuracies)):
        if mean > z * error and mean > best_mean:
            best, best_mean = candidate, mean
    return best
