"""The contrastive losses the slow way: one row, one prototype and one number at a time, in plain Python floats.

Imports nothing of the library.
"""

from __future__ import annotations

import math


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def distance(x, y):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def percentile(values, share):
    """The value at ``share`` of the way from the smallest to the largest, straight lines between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 2) if len(ordered) > 1 else 0
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def concentrations(rows, prototypes, labels, temperature, smoothing, clip):
    """φ_k = mean_{i∈k} ‖x_i - c_k‖ / log(n_k + s); lone prototypes get the largest; clipped, scaled to a mean."""
    found = []
    for k, c in enumerate(prototypes):
        own = [distance(x, c) for x, y in zip(rows, labels, strict=True) if y == k]
        found.append(sum(own) / len(own) / math.log(len(own) + smoothing) if len(own) > 1 else None)
    largest = max([value for value in found if value is not None], default=0.0)
    found = [largest if value is None else value for value in found]
    low, high = (percentile(found, share) for share in clip)
    found = [min(max(value, low), high) for value in found]
    mean = sum(found) / len(found)
    return [temperature * value / mean for value in found]


def prototypical(queries, prototypes, labels, phi):
    """-log [exp(q·c_s/φ_s) / Σ_j exp(q·c_j/φ_j)], the mean over the queries that have a prototype."""
    losses = []
    for q, s in zip(queries, labels, strict=True):
        if s >= 0:
            weights = [math.exp(dot(q, c) / p) for c, p in zip(prototypes, phi, strict=True)]
            losses.append(-math.log(weights[s] / sum(weights)))
    return sum(losses) / len(losses) if losses else 0.0


def supervised(rows, labels, temperature):
    """-1/|P(i)| Σ_{p∈P(i)} log [exp(z_i·z_p/τ) / Σ_{a≠i} exp(z_i·z_a/τ)], the mean over rows that have a P(i)."""
    index = [i for i, y in enumerate(labels) if y >= 0]
    losses = []
    for i in index:
        others = [a for a in index if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            total = sum(math.exp(dot(rows[i], rows[a]) / temperature) for a in others)
            logs = [math.log(math.exp(dot(rows[i], rows[p]) / temperature) / total) for p in positives]
            losses.append(-sum(logs) / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


def info_nce(first, second, temperature):
    """-log [exp(z·z'/τ) / Σ exp(z·a/τ)] over all views but z itself, the mean over both views of all rows."""
    n, views = len(first), [*first, *second]
    losses = []
    for i, z in enumerate(views):
        twin = views[(i + n) % (2 * n)]
        total = sum(math.exp(dot(z, a) / temperature) for j, a in enumerate(views) if j != i)
        losses.append(-math.log(math.exp(dot(z, twin) / temperature) / total))
    return sum(losses) / len(losses)
