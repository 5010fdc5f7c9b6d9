"""Semi-supervised k-means the slow way: one row, one center and one number at a time, in plain Python floats.

Imports nothing of the library.
"""

from __future__ import annotations


def squared_distance(x, c):
    return sum((a - b) ** 2 for a, b in zip(x, c, strict=True))


def mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def nearest(x, centers):
    return min(range(len(centers)), key=lambda k: squared_distance(x, centers[k]))


def inertia(rows, centers, assigned):
    return sum(squared_distance(x, centers[k]) for x, k in zip(rows, assigned, strict=True))


def kmeans(rows, labels, centers, n_steps):
    """Assign and average ``n_steps`` times; an empty cluster takes the farthest unlabelled row for center.

    Returns the assignment to the last centers, these, and the objective after each assignment.
    """
    centers = [list(c) for c in centers]
    trace = []
    for _ in range(n_steps):
        # z_i = y_i of a labelled row, argmin_k ‖x_i - c_k‖² of another
        assigned = [y if y >= 0 else nearest(x, centers) for x, y in zip(rows, labels, strict=True)]
        empty = [k for k in range(len(centers)) if k not in assigned]
        far = sorted(
            (i for i, y in enumerate(labels) if y < 0),
            key=lambda i: -squared_distance(rows[i], centers[assigned[i]]),
        )
        for k, i in zip(empty, far, strict=False):
            if squared_distance(rows[i], centers[assigned[i]]) > 1e-20:
                assigned[i], centers[k] = k, list(rows[i])
        trace.append(inertia(rows, centers, assigned))
        # c_k = mean of all rows of k, labelled or not
        for k in range(len(centers)):
            own = [x for x, z in zip(rows, assigned, strict=True) if z == k]
            centers[k] = mean(own) if own else centers[k]
    assigned = [y if y >= 0 else nearest(x, centers) for x, y in zip(rows, labels, strict=True)]
    return assigned, centers, trace
