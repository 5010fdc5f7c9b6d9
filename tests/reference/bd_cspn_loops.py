"""BD-CSPN as plain loops over one episode, in float64, from the equations of Liu, Song and Qin (ECCV 2020), Section 3.

Imports nothing of the library. An episode is ``support (n_s, d)``, ``support_labels (n_s,)``, ``query (n_q, d)``
and ``n_way``.
"""

from __future__ import annotations

import math

import numpy as np


def unit(x):
    """x / ‖x‖."""
    return x / math.sqrt(sum(value * value for value in x))


def cosine(x, y):
    """cos(x, y)."""
    return float(sum(a * b for a, b in zip(unit(x), unit(y), strict=True)))


def softmax(values):
    """exp(v_k) / sum_l exp(v_l)."""
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / sum(powers) for power in powers]


def class_means(items, labels, n_way):
    """p_k = mean of the support items of class k."""
    return [np.mean([x for x, label in zip(items, labels, strict=True) if label == k], axis=0) for k in range(n_way)]


def rectified(support, support_labels, query, n_way, *, epsilon=10.0, n_confident=0):
    """Shifted queries and rectified prototypes of items that are as they should be (L2-normalised or not)."""
    basic = class_means(support, support_labels, n_way)
    # xi = mean of the prototypes - mean of the queries; z_n <- z_n + xi
    # (fewer queries than ways stay where they are)
    xi = sum(basic) / n_way - sum(query) / len(query) if len(query) >= n_way else 0.0
    shifted = [z + xi for z in query]
    # pseudo-labels: the prototype of the largest cosine
    pseudo = [int(np.argmax([cosine(z, p) for p in basic])) for z in shifted]
    prototypes = []
    for k in range(n_way):
        mine = sorted(
            (z for z, label in zip(shifted, pseudo, strict=True) if label == k), key=lambda z: -cosine(z, basic[k])
        )
        members = [x for x, label in zip(support, support_labels, strict=True) if label == k]
        members += mine[:n_confident] if n_confident else mine
        # w(x) = exp(eps cos(x, p_k)) / sum over the members; p'_k = sum_x w(x) x
        weights = softmax([epsilon * cosine(x, basic[k]) for x in members])
        prototypes.append(sum(w * x for w, x in zip(weights, members, strict=True)))
    return np.array(prototypes), np.array(shifted)


def bd_cspn(support, support_labels, query, n_way, *, epsilon=10.0, n_confident=0, center=0.0):
    """Probabilities (n_q, n_way): softmax_k of eps cos(z_n, p'_k)."""
    support = [unit(x - center) for x in support]
    query = [unit(z - center) for z in query]
    prototypes, shifted = rectified(support, support_labels, query, n_way, epsilon=epsilon, n_confident=n_confident)
    return np.array([softmax([epsilon * cosine(z, p) for p in prototypes]) for z in shifted])
