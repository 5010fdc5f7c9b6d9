"""Tip-Adapter as plain loops over one episode, in float64: Zhang et al. (ECCV 2022), Eq. 3 to 6. No library code."""

from __future__ import annotations

import math

import numpy as np

from tests.reference.bd_cspn_loops import class_means, cosine, softmax, unit


def text_logits(support, support_labels, query, n_way, *, text=None, scale=100.0):
    """s f_n . t_k; without texts, a tenth of s times the cosine with the mean of the class's unit support items."""
    if text is not None:
        return [[scale * cosine(z, t) for t in text] for z in query]
    means = class_means([unit(x) for x in support], support_labels, n_way)
    return [[0.1 * scale * cosine(z, p) for p in means] for z in query]


def tip_adapter(support, support_labels, query, n_way, *, text=None, alpha=1.0, beta=5.5, scale=100.0):
    """Probabilities (n_q, n_way)."""
    rows = text_logits(support, support_labels, query, n_way, text=text, scale=scale)
    found = []
    for z, logits in zip(query, rows, strict=True):
        votes = [0.0] * n_way
        # phi(f_n . F_m) = exp(-beta (1 - f_n . F_m)), added to the class of m
        for x, label in zip(support, support_labels, strict=True):
            votes[label] += math.exp(-beta * (1 - cosine(z, x)))
        found.append(softmax([logit + alpha * vote for logit, vote in zip(logits, votes, strict=True)]))
    return np.array(found)
