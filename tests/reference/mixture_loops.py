"""Semi-supervised EM for Gaussian mixtures as plain loops over items, in float64: what the fast code must equal.

Transcribed from ``shared/reference/discovery.md`` §1.3; imports nothing of the library. ``x (n, d)``; ``labels (n,)``,
-1 for an unlabelled item; a prior is (m, kappa, nu, psi) or None; a state is (weights, means, full covariances).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import multigammaln


def log_normal(item, mean, covariance):
    """log N(x | mu, Sigma)."""
    gap = item - mean
    quadratic = float(gap @ np.linalg.inv(covariance) @ gap)
    return -0.5 * (len(gap) * math.log(2 * math.pi) + math.log(np.linalg.det(covariance)) + quadratic)


def joint(item, state):
    """log pi_k + log N(x | theta_k) of every k."""
    return [math.log(w) + log_normal(item, m, c) for w, m, c in zip(*state, strict=True)]


def e_step(x, labels, state, is_hard):
    """r_ik = 1[k = y_i] of a labelled item; else the posterior, or one-hot at its largest entry."""
    rows = []
    for item, label in zip(x, labels, strict=True):
        terms = joint(item, state)
        if label >= 0 or is_hard:
            best = label if label >= 0 else max(range(len(terms)), key=lambda k: terms[k])
            rows.append([1.0 if k == best else 0.0 for k in range(len(terms))])
        else:
            top = max(terms)
            shares = [math.exp(term - top) for term in terms]
            rows.append([share / sum(shares) for share in shares])
    return np.array(rows)


def likelihood(x, labels, state, is_hard, item_weights):
    """sum over labelled of log pi_y N, over the others of log sum_k (or max_k) pi_k N."""
    total = 0.0
    for item, label, weight in zip(x, labels, item_weights, strict=True):
        terms = joint(item, state)
        if label >= 0:
            total += weight * terms[label]
        elif is_hard:
            total += weight * max(terms)
        else:
            total += weight * (max(terms) + math.log(sum(math.exp(term - max(terms)) for term in terms)))
    return total


def log_prior(state, prior, a, form):
    """sum_k log NIW(mu_k, Sigma_k) + log Dir(pi); one inverse Wishart for a tied covariance."""
    weights, means, covariances = state
    k, d = len(weights), len(means[0])
    total = math.lgamma(k * a) - k * math.lgamma(a) + (a - 1) * sum(math.log(w) for w in weights) if a != 1 else 0.0
    if prior is None:
        return total
    m, kappa, nu, psi = prior
    for index, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        total += log_normal(mean, m, covariance / kappa)
        if form != "tied" or index == 0:
            total += 0.5 * nu * math.log(np.linalg.det(psi)) - 0.5 * nu * d * math.log(2) - multigammaln(nu / 2, d)
            total += -0.5 * (nu + d + 1) * math.log(np.linalg.det(covariance))
            total += -0.5 * float(np.trace(psi @ np.linalg.inv(covariance)))
    return total


def m_step(x, responsibilities, prior, a, form, floor, item_weights):
    """The joint mode: mu_k = m_k, Sigma_k = Psi_k / (nu_k + d + 2), restricted to the form."""
    n_items, d = x.shape
    k = responsibilities.shape[1]
    counts = [sum(item_weights[i] * responsibilities[i, c] for i in range(n_items)) for c in range(k)]
    m, kappa, nu, psi = prior if prior is not None else (np.zeros(d), 0.0, -(d + 2.0), np.zeros((d, d)))
    means, totals = [], []
    for c in range(k):
        shares = [item_weights[i] * responsibilities[i, c] for i in range(n_items)]
        average = sum(share * item for share, item in zip(shares, x, strict=True)) / counts[c]
        scatter = sum(share * np.outer(item - average, item - average) for share, item in zip(shares, x, strict=True))
        means.append((kappa * m + counts[c] * average) / (kappa + counts[c]))
        totals.append(scatter + kappa * counts[c] / (kappa + counts[c]) * np.outer(average - m, average - m))
    if form == "tied":
        divisor = sum(counts) if prior is None else nu + sum(counts) + d + 1 + k
        covariances = [(psi + sum(totals)) / divisor] * k
    else:
        covariances = [(psi + total) / (nu + count + d + 2) for total, count in zip(totals, counts, strict=True)]
    if form == "diagonal":
        covariances = [np.diag(np.diag(covariance)) for covariance in covariances]
    if form == "spherical":
        covariances = [np.trace(covariance) / d * np.eye(d) for covariance in covariances]
    if prior is None:
        covariances = [covariance + floor * np.eye(d) for covariance in covariances]
    weights = [(count + a - 1) / (sum(counts) + k * (a - 1)) for count in counts]
    return weights, means, covariances


def factor_step(total, n, factors, noise):
    """One EM step of factor analysis towards the scatter A of n items, for x = W z + e, e ~ N(0, diag(psi)).

    With E[z | x] = beta (x - mu): C = A betaᵀ, sum E[z zᵀ] = n (I - beta W) + beta C; then W and psi.
    """
    beta = factors.T @ np.linalg.inv(factors @ factors.T + np.diag(noise))
    cross = total @ beta.T
    second = n * (np.eye(factors.shape[1]) - beta @ factors) + beta @ cross
    new = cross @ np.linalg.inv(second)
    return new, np.diag(total - new @ cross.T) / n


def fit(x, labels, partition, k, *, form, prior, a, floor, is_hard, item_weights, n_steps):
    """EM from a partition; the objective of the start and after every step."""
    one_hot = np.array([[1.0 if own == c else 0.0 for c in range(k)] for own in partition])
    state = m_step(x, one_hot, prior, 1.0, form, floor, item_weights)
    trace = []
    for step in range(n_steps + 1):
        trace.append(likelihood(x, labels, state, is_hard, item_weights) + log_prior(state, prior, a, form))
        if step < n_steps:
            shares = e_step(x, labels, state, is_hard)
            state = m_step(x, shares, prior, a, form, floor, item_weights)
    return state, trace
