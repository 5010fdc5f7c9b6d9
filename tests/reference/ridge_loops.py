"""Ridge regression on expanded features written as plain loops over items, in float64: what the fast code must equal.

Transcribed from ``shared/reference/teen.md`` §4.3 (RanPAC) and §4.6 (ACIL, GKEAL); imports nothing of the library.
Items are ``x (n, d)``, classes ``labels (n,)`` in [0, n_classes).
"""

from __future__ import annotations

import math

import numpy as np


def relu_expansion(x, projection):
    """h(x) = relu(Wᵀ x), one item and one projection at a time."""
    return np.array([[max(0.0, float(np.dot(w, item))) for w in projection.T] for item in x])


def rbf_expansion(x, centers, sigma):
    """phi_j(x) = exp(-||x - m_j||² / (2 sigma²))."""
    return np.array([[math.exp(-sum((item - m) ** 2) / (2 * sigma**2)) for m in centers] for item in x])


def sums(phi, labels, n_classes, item_weights=None):
    """G = sum_i w_i phi_i phi_iᵀ and Q = sum_i w_i phi_i y_iᵀ."""
    gram, responses = np.zeros((phi.shape[1],) * 2), np.zeros((phi.shape[1], n_classes))
    for i, (item, label) in enumerate(zip(phi, labels, strict=True)):
        weight = 1.0 if item_weights is None else item_weights[i]
        gram += weight * np.outer(item, item)
        responses[:, label] += weight * item
    return gram, responses


def ridge_weights(phi, labels, n_classes, ridge, item_weights=None):
    """W = (G + lambda I)^-1 Q."""
    gram, responses = sums(phi, labels, n_classes, item_weights)
    return np.linalg.solve(gram + ridge * np.eye(len(gram)), responses)


def recursive_weights(phi, labels, n_classes, ridge):
    """One item at a time: R <- R - R x xᵀ R / (1 + xᵀ R x); W <- W + R x (y - xᵀ W); R_0 = I / lambda, W_0 = 0."""
    inverse, weights = np.eye(phi.shape[1]) / ridge, np.zeros((phi.shape[1], n_classes))
    for item, label in zip(phi, labels, strict=True):
        target = np.array([1.0 if k == label else 0.0 for k in range(n_classes)])
        moved = inverse @ item
        inverse = inverse - np.outer(moved, moved) / (1 + item @ moved)
        weights = weights + np.outer(inverse @ item, target - item @ weights)
    return weights


def balanced_weights(labels, is_base):
    """N C_g / (C N_g) for each item: N items, C classes, N_g and C_g of the item's group (base or not)."""
    n_items, n_classes = len(labels), len(set(labels))
    weights = []
    for label in labels:
        group = [other for other in labels if is_base[other] == is_base[label]]
        weights.append(n_items * len(set(group)) / (n_classes * len(group)))
    return weights


def held_out_errors(phi, labels, n_classes, ridges, held_out):
    """Sum of squared errors on the items of ``held_out`` of the regression on the others, for each ridge."""
    rest = [i for i in range(len(phi)) if i not in set(held_out)]
    errors = []
    for ridge in ridges:
        weights, total = ridge_weights(phi[rest], [labels[i] for i in rest], n_classes, ridge), 0.0
        for i in held_out:
            for k in range(n_classes):
                total += (phi[i] @ weights[:, k] - (1.0 if labels[i] == k else 0.0)) ** 2
        errors.append(total)
    return errors
