"""Heads of means and covariances as loops over items, classes and features, in float64; nothing of the library.

Formulas: ``shared/reference/teen.md``, 4.2, 4.4, 4.6 and 4.7.
"""

from __future__ import annotations

import math

import numpy as np


def grouped(X, y):
    """The rows of each class, by label in sorted order."""
    return {label: [row for row, own in zip(X, y, strict=True) if own == label] for label in sorted(set(y))}


def mean(rows):
    return sum(rows) / len(rows)


def scatter(rows):
    """Σ (x - μ)(x - μ)ᵀ."""
    center = mean(rows)
    return sum(np.outer(row - center, row - center) for row in rows)


def pooled_covariance(groups):
    """Scatter within classes over n - C; zero if that is zero."""
    total = sum(scatter(rows) for rows in groups.values())
    return total / max(1, sum(len(rows) - 1 for rows in groups.values()))


# Linear discriminant analysis


def lda_scores(X, y, queries, shrinkage, *, empirical=False):
    """xᵀΛμ - ½ μᵀΛμ + ln π, with Λ the inverse of (1 - ε) Σ + ε (trΣ / d) I."""
    groups = grouped(X, y)
    sigma = pooled_covariance(groups)
    d = len(sigma)
    precision = np.linalg.inv((1 - shrinkage) * sigma + shrinkage * np.trace(sigma) / d * np.eye(d))
    scores = np.empty((len(queries), len(groups)))
    for n, x in enumerate(queries):
        for k, rows in enumerate(groups.values()):
            mu = mean(rows)
            log_prior = math.log(len(rows) / len(X)) if empirical else 0.0
            scores[n, k] = x @ precision @ mu - mu @ precision @ mu / 2 + log_prior
    return scores


class PublishedSLDA:
    """Deep SLDA as it was released, defects and all."""

    def __init__(self, n_features, n_classes, eps=1e-4):
        self.means = np.zeros((n_classes, n_features))
        self.counts = np.zeros(n_classes)
        self.sigma = np.ones((n_features, n_features))
        self.n, self.eps = 0, eps

    def fit_one(self, x, label):
        e = x - self.means[label]
        self.sigma = (self.n * self.sigma + self.n / (self.n + 1) * np.outer(e, e)) / (self.n + 1)
        self.means[label] += e / (self.counts[label] + 1)
        self.counts[label] += 1
        self.n += 1

    def scores(self, queries):
        precision = np.linalg.pinv((1 - self.eps) * self.sigma + self.eps * np.eye(len(self.sigma)))
        return queries @ precision @ self.means.T - 0.5 * np.sum(self.means @ precision * self.means, axis=1)


# FeCAM


def fecam_scores(
    X, y, queries, *, tukey, shrinkage, n_shrinks, common=False, new=(), softmax_scale=16.0, shift_weight=0.5
):
    """-uᵀ R⁻¹ u; classes in ``new`` are calibrated by the others."""
    groups = grouped([_power(row, tukey) for row in X], y)
    pooled = pooled_covariance(groups)
    means = {label: mean(rows) for label, rows in groups.items()}
    covariances = {
        label: scatter(rows) / (len(rows) - 1) if len(rows) > 1 else pooled for label, rows in groups.items()
    }
    base = [label for label in groups if label not in new]
    raw_means, raw_covariances = dict(means), dict(covariances)
    for label in new:
        weights = _weights(raw_means[label], [raw_means[b] for b in base], softmax_scale)
        delta = sum(w * _unit(raw_means[b]) for w, b in zip(weights, base, strict=True))
        means[label] = (1 - shift_weight) * _unit(raw_means[label]) + shift_weight * _unit(delta)
        covariances[label] = raw_covariances[label] + sum(
            w * raw_covariances[b] for w, b in zip(weights, base, strict=True)
        )
    scores = np.empty((len(queries), len(groups)))
    for k, label in enumerate(groups):
        precision = np.linalg.inv(normalised(pooled if common else covariances[label], shrinkage, n_shrinks))
        for n, x in enumerate(queries):
            u = _unit(_power(x, tukey)) - _unit(means[label])
            scores[n, k] = -u @ precision @ u
    return scores


def normalised(sigma, shrinkage, n_shrinks):
    """Σ + γ₁ V₁ I + γ₂ V₂ (11ᵀ - I), n_shrinks times, then R_ij = Σ_ij / √(Σ_ii Σ_jj)."""
    d = len(sigma)
    if not sigma.any():
        return np.eye(d)
    for _ in range(n_shrinks):
        v1 = sum(sigma[i, i] for i in range(d)) / d
        v2 = sum(sigma[i, j] for i in range(d) for j in range(d) if i != j) / max(1, d * (d - 1))
        sigma = np.array(
            [[sigma[i, j] + (shrinkage[0] * v1 if i == j else shrinkage[1] * v2) for j in range(d)] for i in range(d)]
        )
    return np.array([[sigma[i, j] / math.sqrt(sigma[i, i] * sigma[j, j]) for j in range(d)] for i in range(d)])


def _power(x, tukey):
    return x if tukey is None else x**tukey


def _unit(x):
    return x / np.linalg.norm(x)


def _weights(prototype, anchors, softmax_scale):
    logits = [softmax_scale * (_unit(prototype) @ _unit(anchor)) for anchor in anchors]
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    return [value / sum(exponentials) for value in exponentials]


# Distribution calibration


def calibrated_gaussian(x, base_means, base_covariances, n_nearest, spread):
    """The k nearest base classes of one shot: ((x + Σ μ_i) / (k + 1), mean Σ_i + spread · I)."""
    by_distance = sorted(range(len(base_means)), key=lambda i: float(np.sum((x - base_means[i]) ** 2)))
    chosen = by_distance[:n_nearest]
    center = (x + sum(base_means[i] for i in chosen)) / (len(chosen) + 1)
    return center, sum(base_covariances[i] for i in chosen) / len(chosen) + spread * np.eye(len(x))
