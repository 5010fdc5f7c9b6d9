"""TIM (Boudiaf et al., NeurIPS 2020) as plain loops over one episode, in float64: what the fast code must equal.

An episode is ``support (n_s, d)``, ``support_labels (n_s,)``, ``query (n_q, d)`` and ``n_way``. ``weights`` are (a, b,
c) of the loss a CE(S) - b H(mean_Q p) + c mean_Q H(p). Gradients are taken by complex steps, f'(x) = Im f(x + ih) / h,
from the loss alone: exact to rounding, with no formula of a derivative.
"""

from __future__ import annotations

import numpy as np


def unit(features):
    """z / ||z||, a zero vector left alone."""
    rows = []
    for row in features:
        norm = np.sqrt(sum(value * value for value in row))
        rows.append([value / norm if norm > 0 else value for value in row])
    return np.array(rows)


def class_means(support, support_labels, n_way):
    """w_k at the start: the mean of each class's support."""
    means = []
    for k in range(n_way):
        members = [z for z, label in zip(support, support_labels, strict=True) if label == k]
        means.append(sum(members) / len(members))
    return np.array(means)


def softmax(logits):
    """Shifted by the largest real part; complex numbers pass through."""
    top = max(value.real for value in logits)
    terms = [np.exp(value - top) for value in logits]
    return [term / sum(terms) for term in terms]


def probabilities(items, w, scale):
    """p_nk = softmax_k( -tau/2 ||z_n - w_k||^2 )."""
    return [softmax([-0.5 * scale * sum((z - w_k) * (z - w_k)) for w_k in w]) for z in items]


def shannon(p):
    """- sum_k p_k ln p_k."""
    return -sum(value * np.log(value) for value in p)


def marginal(p):
    """mean_n p_nk."""
    return [sum(row[k] for row in p) / len(p) for k in range(len(p[0]))]


def loss(support, support_labels, query, w, *, weights, scale, entropy=shannon):
    """a * mean_S( -ln p ) - b * H( mean_Q p ) + c * mean_Q H( p )."""
    a, b, c = weights
    p_support, p_query = probabilities(support, w, scale), probabilities(query, w, scale)
    cross_entropy = -sum(np.log(p[label]) for p, label in zip(p_support, support_labels, strict=True)) / len(support)
    conditional = sum(entropy(p) for p in p_query) / len(query)
    return a * cross_entropy - b * entropy(marginal(p_query)) + c * conditional


def complex_step_gradient(function, w, step=1e-30):
    """df/dw, entry by entry."""
    gradient = np.zeros(w.shape)
    for index in np.ndindex(w.shape):
        moved = w.astype(complex)
        moved[index] += 1j * step
        gradient[index] = function(moved).imag / step
    return gradient


def adam(function, w, *, learning_rate, n_steps):
    """Adam (Kingma and Ba, Algorithm 1) on every entry, beta 0.9 and 0.999, epsilon 1e-8."""
    w, mean, square = w.copy(), np.zeros(w.shape), np.zeros(w.shape)
    for t in range(1, n_steps + 1):
        g = complex_step_gradient(function, w)
        for index in np.ndindex(w.shape):
            mean[index] = 0.9 * mean[index] + 0.1 * g[index]
            square[index] = 0.999 * square[index] + 0.001 * g[index] ** 2
            m_hat, v_hat = mean[index] / (1 - 0.9**t), square[index] / (1 - 0.999**t)
            w[index] -= learning_rate * m_hat / (np.sqrt(v_hat) + 1e-8)
    return w


def tim_gd(
    support,
    support_labels,
    query,
    n_way,
    *,
    weights=(0.1, 1.0, 0.1),
    scale=15.0,
    learning_rate=1e-4,
    n_steps=1000,
    entropy=shannon,
):
    """Return p of the queries after Adam from the class means, on unit-length features."""
    support, query = unit(support), unit(query)

    def objective(w):
        return loss(support, support_labels, query, w, weights=weights, scale=scale, entropy=entropy)

    start = class_means(support, support_labels, n_way)
    w = adam(objective, start, learning_rate=learning_rate, n_steps=n_steps)
    return np.array(probabilities(query, w, scale))


def q_update(p, b, c):
    """q_nk ∝ p_nk^(1+c) / ( sum_m p_mk^(1+c) )^(b/(1+b))   (Proposition 1; b = 1 gives the square root)."""
    n_q, n_way = len(p), len(p[0])
    sums = [sum(p[n][k] ** (1 + c) for n in range(n_q)) for k in range(n_way)]
    q = []
    for n in range(n_q):
        row = [p[n][k] ** (1 + c) / sums[k] ** (b / (1 + b)) for k in range(n_way)]
        q.append([value / sum(row) for value in row])
    return q


def w_update(support, support_labels, query, w, q, *, a, c, scale):
    """Proposition 1, the prototypes.

    w_k = [ a/(1+c) sum_S ( y_k z + p_k (w_k - z) ) + |S|/|Q| sum_Q ( q_k z + p_k (w_k - z) ) ]
          / [ a/(1+c) sum_S y_k + |S|/|Q| sum_Q q_k ].
    """
    p_support, p_query = probabilities(support, w, scale), probabilities(query, w, scale)
    new = []
    for k, w_k in enumerate(w):
        total, weight = np.zeros(len(w_k)), 0.0
        for z, label, p in zip(support, support_labels, p_support, strict=True):
            y = 1.0 if label == k else 0.0
            total = total + a / (1 + c) * (y * z + p[k] * (w_k - z))
            weight += a / (1 + c) * y
        for z, q_n, p in zip(query, q, p_query, strict=True):
            total = total + len(support) / len(query) * (q_n[k] * z + p[k] * (w_k - z))
            weight += len(support) / len(query) * q_n[k]
        new.append(total / weight)
    return np.array(new)


def tim_adm(support, support_labels, query, n_way, *, weights=(0.1, 1.0, 0.1), scale=15.0, n_steps=150):
    """Return p of the queries after alternating updates from the class means, on unit-length features."""
    a, b, c = weights
    support, query = unit(support), unit(query)
    w = class_means(support, support_labels, n_way)
    for _ in range(n_steps):
        q = q_update(probabilities(query, w, scale), b, c)
        w = w_update(support, support_labels, query, w, q, a=a, c=c, scale=scale)
    return np.array(probabilities(query, w, scale))
