"""Clustering accuracy the slow way: every assignment of clusters to classes is tried, in plain Python.

Imports nothing of the library.
"""

from __future__ import annotations

from itertools import permutations

NAN = float("nan")


def ratio(a, b):
    return a / b if b else NAN


def assignments(clusters, classes):
    """Every way of giving each class a cluster of its own, or none, as dicts from class to cluster."""
    padded = clusters + [None] * len(classes)
    return [dict(zip(classes, chosen, strict=True)) for chosen in set(permutations(padded, len(classes)))]


def right(found, truth, cluster_of, classes):
    """Count the items of these classes that lie in the cluster of their class."""
    return sum(t in classes and cluster_of[t] == c for c, t in zip(found, truth, strict=True))


def most_right(found, truth):
    classes = sorted(set(truth))
    return max(right(found, truth, h, classes) for h in assignments(sorted(set(found)), classes))


def best_assignments(found, truth, known):
    """Most right answers among all items; among those, most right answers among the items of known classes."""
    classes = sorted(set(truth))
    tried = assignments(sorted(set(found)), classes)
    score = [(right(found, truth, h, classes), right(found, truth, h, known)) for h in tried]
    return [h for h, s in zip(tried, score, strict=True) if s == max(score)]


def v2(found, truth, known):
    h = best_assignments(found, truth, known)[0]
    novel = set(truth) - known
    n_old = sum(t in known for t in truth)
    return (
        ratio(right(found, truth, h, set(truth)), len(truth)),
        ratio(right(found, truth, h, known), n_old),
        ratio(right(found, truth, h, novel), len(truth) - n_old),
    )


def all_v2b(found, truth, known):
    """The means over classes, for each of the matchings that are equally good."""
    answers = []
    for h in best_assignments(found, truth, known):
        recall = {k: right(found, truth, h, {k}) / truth.count(k) for k in set(truth)}
        parts = set(truth), set(truth) & known, set(truth) - known
        answers.append(tuple(ratio(sum(recall[k] for k in part), len(part)) for part in parts))
    return answers


def apart(found, truth, known):
    """Most right answers among the old items alone and among the new items alone, and how many there are."""
    pairs = list(zip(found, truth, strict=True))
    parts = [pair for pair in pairs if pair[1] in known], [pair for pair in pairs if pair[1] not in known]
    return [(most_right(*map(list, zip(*part, strict=True))) if part else 0, len(part)) for part in parts]


def v1(found, truth, known):
    old, new = apart(found, truth, known)
    return ratio(old[0] + new[0], len(truth)), ratio(*old), ratio(*new)


def orca(found, truth, known):
    old, new = apart(found, truth, known)
    same_id = sum(c == t and t in known for c, t in zip(found, truth, strict=True))
    return ratio(most_right(found, truth), len(truth)), ratio(same_id, old[1]), ratio(*new)
