"""LaplacianShot as plain loops over one episode, in float64: Ziko et al. (ICML 2020), Algorithm 1. No library code."""

from __future__ import annotations

import math

import numpy as np

from tests.reference.bd_cspn_loops import class_means, rectified, softmax, unit


def neighbours(items, n_neighbours):
    """w_nm = 1 if m is among the nearest items of n, n itself not counted."""
    w = np.zeros((len(items), len(items)))
    for n, z in enumerate(items):
        others = sorted((m for m in range(len(items)) if m != n), key=lambda m: math.dist(z, items[m]))
        for m in others[:n_neighbours]:
            w[n, m] = 1.0
    return w


def laplacian_shot(
    support, support_labels, query, n_way, *, weight=0.7, n_neighbours=3, n_steps=20, is_rectified=True, center=0.0
):
    """Probabilities (n_q, n_way)."""
    support = [unit(x - center) for x in support]
    query = [unit(z - center) for z in query]
    if is_rectified:
        prototypes, query = rectified(support, support_labels, query, n_way)
    else:
        prototypes = class_means(support, support_labels, n_way)
    w = neighbours(query, n_neighbours)
    # a_nk = squared distance to the prototype
    a = [[sum((z - p) ** 2) for p in prototypes] for z in query]
    # y_n = softmax(-a_n), then y_n = softmax(-a_n + lambda sum_m w_nm y_m), all n at once
    y = [softmax([-value for value in row]) for row in a]
    for _ in range(n_steps):
        b = [[sum(w[n, m] * y[m][k] for m in range(len(query))) for k in range(n_way)] for n in range(len(query))]
        y = [softmax([-a[n][k] + weight * b[n][k] for k in range(n_way)]) for n in range(len(query))]
    return np.array(y)


def energy(y, a, w, weight):
    """The bound's objective for a symmetric graph: sum y ln y + y a - (lambda / 2) sum_nm w_nm y_n . y_m."""
    return float((y * np.log(y)).sum() + (y * a).sum() - 0.5 * weight * (w * (y @ y.T)).sum())
