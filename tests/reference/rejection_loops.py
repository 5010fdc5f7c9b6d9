"""Non-conformity scores and p-values of queries, item by item in float64."""

from __future__ import annotations

import numpy as np


def unit(x):
    norm = np.sqrt((x * x).sum())
    return x if norm == 0 else x / norm


def class_score(x, items):
    """Return ‖x - m‖² / (1 + 1/n), m the mean of n items."""
    difference = x - sum(items) / len(items)
    return (difference * difference).sum() / (1 + 1 / len(items))


def nonconformity(query, support, labels, n_way):
    """Return the least class score of each query, every vector of unit length."""
    support = [unit(row) for row in support.astype(np.float64)]
    members = [[row for row, label in zip(support, labels, strict=True) if label == k] for k in range(n_way)]
    return np.array([min(class_score(unit(x), own) for own in members) for x in query.astype(np.float64)])


def calibration_scores(support, labels, n_way):
    """Return each support item's score against its class learned without it; -inf for a class's only item."""
    units = [unit(row) for row in support.astype(np.float64)]
    found = []
    for i, (row, label) in enumerate(zip(units, labels, strict=True)):
        rest = [
            [other for j, other in enumerate(units) if labels[j] == k and j != i]  # the item itself is left out
            for k in range(n_way)
        ]
        found.append(min(class_score(row, own) for own in rest if own) if rest[label] else -np.inf)
    return np.array(found)


def p_values(scores, calibration):
    """Return (1 + #{s_i >= s}) / (n + 1)."""
    known = [value for value in calibration if value > -np.inf]
    return np.array([(1 + sum(value >= score for value in known)) / (len(known) + 1) for score in scores])
