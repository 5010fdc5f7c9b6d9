"""Linear heads fitted on the support of one episode, as plain loops in float64."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from tests.reference.tim_loops import adam, class_means, softmax, unit


def logistic_objective(w, b, support, support_labels, inverse_penalty):
    """C sum_n -ln softmax_y( W z_n + b ) + 1/2 ||W||^2, and its gradient with respect to W and b."""
    value, grad_w, grad_b = 0.5 * np.sum(w * w), w.copy(), np.zeros(len(b))
    for z, label in zip(support, support_labels, strict=True):
        p = softmax([sum(w_k * z) + b_k for w_k, b_k in zip(w, b, strict=True)])
        value -= inverse_penalty * np.log(p[label])
        for k in range(len(b)):
            residual = inverse_penalty * (p[k] - (1.0 if k == label else 0.0))
            grad_w[k] += residual * z
            grad_b[k] += residual
    return value, grad_w, grad_b


def logistic_regression(support, support_labels, query, n_way, *, inverse_penalty=1.0, is_normalized=True):
    """Return p of the queries, by scipy's BFGS on the objective, weights and intercepts of all classes free."""
    if is_normalized:
        support, query = unit(support), unit(query)
    d = support.shape[1]

    def objective(flat):
        w, b = flat[: n_way * d].reshape(n_way, d), flat[n_way * d :]
        value, grad_w, grad_b = logistic_objective(w, b, support, support_labels, inverse_penalty)
        return value, np.concatenate([grad_w.ravel(), grad_b])

    found = minimize(objective, np.zeros(n_way * (d + 1)), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    w, b = found[: n_way * d].reshape(n_way, d), found[n_way * d :]
    return np.array([softmax([sum(w_k * z) + b_k for w_k, b_k in zip(w, b, strict=True)]) for z in query])


def cosine_probabilities(items, w, scale):
    """p_nk = softmax_k( s * cos(z_n, w_k) ) of unit-length items; complex w pass through."""
    table = []
    for z in items:
        cosines = [sum(z * w_k) / np.sqrt(sum(w_k * w_k)) for w_k in w]
        table.append(softmax([scale * value for value in cosines]))
    return table


def cosine_head(support, support_labels, query, n_way, *, scale=2.0, learning_rate=1e-3, n_steps=100):
    """Return p of the queries after Adam on the mean cross-entropy of the support, from the class means."""
    support, query = unit(support), unit(query)

    def objective(w):
        p = cosine_probabilities(support, w, scale)
        return -sum(np.log(row[label]) for row, label in zip(p, support_labels, strict=True)) / len(support)

    start = class_means(support, support_labels, n_way)
    w = adam(objective, start, learning_rate=learning_rate, n_steps=n_steps)
    return np.array(cosine_probabilities(query, w, scale))
