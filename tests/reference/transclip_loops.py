"""TransCLIP with a support as plain loops, one episode, float64: Zanella et al. (NeurIPS 2024). No library code."""

from __future__ import annotations

import math

import numpy as np

from tests.reference.bd_cspn_loops import class_means, softmax, unit
from tests.reference.tip_adapter_loops import text_logits


def graph(items, n_neighbours):
    """w_nm = max(0, x_n . x_m) if m is among the nearest items of n, n itself not counted."""
    w = np.zeros((len(items), len(items)))
    for n, x in enumerate(items):
        others = sorted((m for m in range(len(items)) if m != n), key=lambda m: -float(x @ items[m]))
        for m in others[:n_neighbours]:
            w[n, m] = max(0.0, float(x @ items[m]))
    return w


def log_normal(x, mean, variances):
    """ln N(x; mean, diag(variances))."""
    return sum(
        -0.5 * math.log(2 * math.pi * v) - 0.5 * (a - m) ** 2 / v for a, m, v in zip(x, mean, variances, strict=True)
    )


def m_step(support, support_labels, query, z, n_way, gamma, floor):
    """Means of length 1, and the variances about them, of support items at gamma/|S| and queries at z/|Q|."""
    items = [
        (x, [gamma / len(support) * (label == k) for k in range(n_way)])
        for x, label in zip(support, support_labels, strict=True)
    ]
    items += [(x, [value / len(query) for value in row]) for x, row in zip(query, z, strict=True)]
    means = [unit(sum(w[k] * x for x, w in items)) for k in range(n_way)]
    scatter = sum(w[k] * (x - means[k]) ** 2 for x, w in items for k in range(n_way))
    return means, np.maximum(scatter / sum(sum(w) for _, w in items), floor)


def transclip(
    support,
    support_labels,
    query,
    n_way,
    *,
    text=None,
    lam=0.5,
    gamma=1.0,
    v=3,
    scale=100.0,
    tau=50.0,
    n_steps=10,
    n_inner=5,
):
    """Probabilities (n_q, n_way)."""
    y = [softmax(row) for row in text_logits(support, support_labels, query, n_way, text=text, scale=scale)]
    support, query = [unit(x) for x in support], [unit(x) for x in query]
    d = len(query[0])
    w = graph(query, v)
    means, variances = [unit(mean) for mean in class_means(support, support_labels, n_way)], np.full(d, 1 / d)
    z = y
    for step in range(n_steps):
        if step:
            means, variances = m_step(support, support_labels, query, z, n_way, gamma, 1e-4 / d)
        for _ in range(n_inner):
            # ln z_nk = lam ln y_nk + ln N(x_n; mu_k, Sigma) / tau + sum_m (w_nm + w_mn) z_mk / 2v, all n at once
            z = [
                softmax(
                    [
                        lam * math.log(y[n][k])
                        + log_normal(query[n], means[k], variances) / tau
                        + sum((w[n, m] + w[m, n]) * z[m][k] for m in range(len(query))) / (2 * v)
                        for k in range(n_way)
                    ]
                )
                for n in range(len(query))
            ]
    return np.array(z)
