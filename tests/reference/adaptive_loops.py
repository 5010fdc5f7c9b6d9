"""Adaptive UNEM as plain loops over one episode, in float64: what the fast code must equal.

An episode is ``support (n_s, d)``, ``support_labels (n_s,)``, ``query (n_q, d)`` and ``n_way``. ``numbers`` are the
model's parameters by name, as NumPy arrays. Distances are taken between vectors, never through inner products.
"""

from __future__ import annotations

import math

import numpy as np

from tests.reference.em_loops import class_means, class_proportions, log_softmax, weighted_class_averages

MIDDLE = (1.2, 2.0, 1.8, 4.5, 3.5, 4.0)
SPREAD = (1.0, 0.8, 1.2, 1.2, 1.2, 1.0)


def squared_distance(a, b):
    """||a - b||^2."""
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def entropy(p):
    """- sum_k p_k ln p_k, 0 ln 0 = 0."""
    return -sum(x * math.log(x) for x in p if x > 0)


def clipped(value, limit=3.0):
    """The value, kept in [-limit, limit]."""
    return max(-limit, min(limit, value))


def scatter(support, support_labels, query, n_way):
    """tr(C) and tr(C^2)/tr(C) from queries less their nearest prototypes, each shrunk by sqrt(1 + 1/shots)."""
    means, d = class_means(support, support_labels, n_way), query.shape[1]
    residuals = []
    for z in query:
        k = min(range(n_way), key=lambda k, z=z: squared_distance(z, means[k]))
        shots = sum(1 for label in support_labels if label == k)
        residuals.append((z - means[k]) / math.sqrt(1 + 1 / shots))
    n = len(query)
    trace = sum(float(r @ r) for r in residuals) / n
    pairs = sum(float(residuals[i] @ residuals[j]) ** 2 for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return trace, max(pairs / trace, trace / d)


def episode_statistics(support, support_labels, query, n_way):
    """Logarithms of shots, ways, queries per way, mean and nearest prototype distance and trace, standardised."""
    trace, unit = scatter(support, support_labels, query, n_way)
    means = class_means(support, support_labels, n_way)
    between = [[squared_distance(means[k], means[m]) / unit for m in range(n_way) if m != k] for k in range(n_way)]
    values = (
        len(support) / n_way,
        n_way,
        len(query) / n_way,
        sum(map(sum, between)) / (n_way * (n_way - 1)),
        sum(map(min, between)) / n_way,
        trace / unit,
    )
    return [clipped((math.log(max(v, 1e-6)) - m) / s) for v, m, s in zip(values, MIDDLE, SPREAD, strict=True)]


SHOTS = (1, 2, 5, 10, 20)


def schedule(numbers, m, s, shots):
    """(b_l, a_l) = c_ml + V_m tanh(W_m s + h_ml), c of the nearest shots: precision and lambda/(|Q| T) by layer."""
    row = min(range(len(SHOTS)), key=lambda i: abs(math.log(SHOTS[i] / shots)))
    found = []
    for h, c in zip(numbers["hidden_bias"][m], numbers["output_bias"][m][row], strict=True):
        hidden = [math.tanh(sum(x * w for x, w in zip(s, column, strict=True)) + b)
                  for column, b in zip(numbers["hidden_weight"][m].T, h, strict=True)]  # fmt: skip
        b, a = (sum(x * w for x, w in zip(hidden, column, strict=True)) + bias
                for column, bias in zip(numbers["output_weight"][m].T, c, strict=True))  # fmt: skip
        found.append((math.exp(clipped(b, 4.0) if b > 0 else max(-6.0, b)), math.log1p(math.exp(a))))
    return found


def run(support, support_labels, query, n_way, unit, layers):
    """E-step, proportions, means, layer by layer; the last layer is its E-step."""
    means, log_share = class_means(support, support_labels, n_way), [0.0] * n_way
    for precision, balance in layers:
        u = np.array([
            np.exp(log_softmax([
                -0.5 * precision * squared_distance(z, means[k]) / unit + balance * log_share[k] for k in range(n_way)
            ]))
            for z in query
        ])  # fmt: skip
        log_share = [math.log(share + 1e-6) for share in class_proportions(u)]
        means = weighted_class_averages(support, support_labels, query, u)
    return u


def evidence(query, means, share, unit):
    """mean_n ln sum_k pi_k exp( -||z_n - theta_k||^2 / 4 unit )."""
    total = 0.0
    for z in query:
        logits = [-0.25 * squared_distance(z, mean) / unit + math.log(pi + 1e-6)
                  for mean, pi in zip(means, share, strict=True)]  # fmt: skip
        total += max(logits) + math.log(sum(math.exp(x - max(logits)) for x in logits))
    return total / len(query)


def solution_statistics(support, support_labels, query, n_way, u, first):
    """Entropies, largest share, agreement with the prototypes, fit and evidence of a solution."""
    trace, unit = scatter(support, support_labels, query, n_way)
    n, share = len(query), class_proportions(u)
    means = weighted_class_averages(support, support_labels, query, u)
    first_means = weighted_class_averages(support, support_labels, query, first)
    distance = sum(u[i, k] * squared_distance(query[i], means[k]) for i in range(n) for k in range(n_way)) / n
    gain = evidence(query, means, share, unit) - evidence(query, first_means, [1 / n_way] * n_way, unit)
    return [
        2 * entropy(share) / math.log(n_way) - 1,
        2 * sum(entropy(row) for row in u) / n / math.log(n_way) - 1,
        2 * max(share) - 1,
        2 * sum(float(u[i] @ first[i]) for i in range(n)) / n - 1,
        math.log(max(distance / trace, 1e-3)),
        clipped(5 * gain / (trace / unit)),
    ]


def adaptive(numbers, support, support_labels, query, n_way):
    """Sum w_m u_m over prototypes and schedules of both views; returns it and the weights w."""
    views = [(support, query), (unit_length(support), unit_length(query))]
    if query.shape[1] < 5:
        views = [(support, query), (support, query)]
    found = [view_answers(numbers, part, support_labels, asked, n_way) for part, asked in views]
    answers = [u for view in found for u in view[0]]
    seen = [x for view in found for x in view[1]]
    hidden = [math.tanh(x) for x in numbers["gate_hidden.weight"] @ seen + numbers["gate_hidden.bias"]]
    weights = np.exp(log_softmax(list(numbers["gate_output.weight"] @ hidden + numbers["gate_output.bias"])))
    return sum(w * u for w, u in zip(weights, answers, strict=True)), weights


def unit_length(features):
    """z / ||z||."""
    return np.array([z / math.sqrt(z @ z) for z in features])


def view_answers(numbers, support, support_labels, query, n_way):
    """The prototypes' answer and each schedule's on one view, and what is seen of it."""
    episode = (support, support_labels, query, n_way)
    unit = scatter(*episode)[1]
    s = episode_statistics(*episode)
    answers = [run(*episode, unit, [(0.5, 0.0)])]
    answers += [
        run(*episode, unit, schedule(numbers, m, s, len(support) / n_way)) for m in range(len(numbers["output_bias"]))
    ]
    return answers, s + [x for u in answers for x in solution_statistics(*episode, u, answers[0])]
