"""PT-MAP and Sinkhorn's algorithm as plain loops over one episode, in float64. No library code.

Hu, Gripon and Pateux, "Leveraging the feature distribution in transfer-based few-shot learning", Algorithm 1; the
centers are kept as vectors, and Sinkhorn is the textbook's: rows, then columns, until nothing moves.
"""

from __future__ import annotations

import math

import numpy as np

from tests.reference.bd_cspn_loops import class_means, softmax, unit


def sinkhorn(scores, shares, *, tolerance=1e-13, max_steps=100_000):
    """The plan exp(s_nk + u_n + v_k) with rows summing to 1 and columns to n c_k."""
    plan = np.exp(scores - scores.max())
    for _ in range(max_steps):
        for n in range(len(plan)):
            plan[n] /= plan[n].sum()
        columns = plan.sum(0)
        if max(abs(columns / len(plan) - shares)) < tolerance:
            return plan
        for k in range(len(shares)):
            plan[:, k] *= len(plan) * shares[k] / columns[k]
    raise AssertionError("the loop did not converge")


def power_transform(x, beta):
    """sign(x) |x|^beta of each coordinate; the same as x^beta where features are not negative."""
    return np.array([math.copysign(abs(value) ** beta, value) for value in x])


def transformed(support, support_labels, query, n_way, *, power, query_shares):
    """Power, unit length, centered, unit length. query_shares None: the queries around the support's center."""
    support = [unit(power_transform(x, power)) for x in support]
    query = [unit(power_transform(z, power)) for z in query]
    means = class_means(support, support_labels, n_way)
    center = sum(means) / n_way
    query_center = center
    if query_shares is not None:
        # the mean that queries of these shares would have is sum_k c_k p_k, not the even one
        excess = sum((share - 1 / n_way) * mean for share, mean in zip(query_shares, means, strict=True))
        query_center = sum(query) / len(query) - excess
    return [unit(x - center) for x in support], [unit(z - query_center) for z in query]


def pt_map(support, support_labels, query, n_way, *, prior="balanced", power=0.5, cost=10.0, alpha=0.2, n_steps=20):
    """Probabilities (n_q, n_way); prior is "balanced", "estimated" or the shares themselves."""
    # fewer queries than ways are never balanced
    is_estimated = isinstance(prior, str) and (prior == "estimated" or len(query) < n_way)
    shares = np.full(n_way, 1 / n_way) if isinstance(prior, str) else np.asarray(prior, dtype=float) / np.sum(prior)
    support, query = transformed(
        support, support_labels, query, n_way, power=power, query_shares=None if is_estimated else shares
    )
    centers = class_means(support, support_labels, n_way)
    for step in range(n_steps + 1):
        scores = np.array([[-cost * sum((z - m) ** 2) for m in centers] for z in query])
        if is_estimated:
            # one step of EM for the shares: c_k = mean_n softmax_k(s_nk + ln c_k), and 1e-6 against dying out
            shares = np.mean([softmax(row + np.log(shares)) for row in scores], axis=0) + 1e-6
            shares = shares / shares.sum()
        plan = sinkhorn(scores, shares)
        if step == n_steps:
            return plan
        for k in range(n_way):
            members = [x for x, label in zip(support, support_labels, strict=True) if label == k]
            total = sum(members) + sum(p * z for p, z in zip(plan[:, k], query, strict=True))
            centers[k] = centers[k] + alpha * (total / (len(members) + plan[:, k].sum()) - centers[k])
    return None
