"""Evidence of a cluster, item by item, in float64 and plain Python: what `fewshot.discovery` must equal."""

import math

import numpy as np


def log_student(x, mean, scale, dof):
    """ln t_dof(x | mean, scale), the multivariate Student density."""
    d = len(x)
    gap = x - mean
    quadratic = gap @ np.linalg.solve(scale, gap)
    return (
        math.lgamma((dof + d) / 2)
        - math.lgamma(dof / 2)
        - 0.5 * (d * math.log(dof * math.pi) + np.linalg.slogdet(scale)[1])
        - 0.5 * (dof + d) * math.log1p(quadratic / dof)
    )


def niw_log_evidence(rows, mean, strength, dof, scale):
    """ln h(Z) = Σ_i ln p(x_i | x_1 .. x_{i-1}): each item's Student density given those before it."""
    d = len(mean)
    total = 0.0
    for x in rows:
        # Murphy 2007, Eq. 258: the posterior predictive is t_{ν-D+1}(m, Ψ (κ+1) / (κ (ν-D+1))).
        free = dof - d + 1
        total += log_student(x, mean, scale * (strength + 1) / (strength * free), free)
        # Eqs. 250-253 for one more item.
        gap = x - mean
        scale = scale + strength / (strength + 1) * np.outer(gap, gap)
        mean = (strength * mean + x) / (strength + 1)
        strength, dof = strength + 1, dof + 1
    return total


def two_covariance_log_evidence(rows, mean, between):
    """ln N(all rows | m, I + b 11ᵀ) - Σ_i ln N(x_i | m, I), one feature at a time."""
    total = 0.0
    for j, b in enumerate(between):
        z = rows[:, j] - mean[j]
        covariance = np.eye(len(z)) + b
        joint = -0.5 * (z @ np.linalg.solve(covariance, z) + np.linalg.slogdet(covariance)[1])
        total += joint + 0.5 * z @ z
    return total
