"""Incremental sessions scored the ordinary way, one query and one class at a time, in plain Python floats.

Imports nothing of the library.
"""

from __future__ import annotations

import math

NAN = float("nan")


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else NAN


def harmonic(a, b):
    if math.isnan(a) or math.isnan(b):
        return NAN
    return 2 * a * b / (a + b) if a + b else 0.0


def scores(truth, answers, session_of, novel_answers=None):
    """Score lists of true classes and answers; ``session_of`` maps each seen class to the session it came in."""
    base = {c for c in session_of if session_of[c] == 0}
    new = set(session_of) - base
    current = {c for c in session_of if session_of[c] == max(session_of.values())}

    def recall(c, said=answers):
        return mean(float(a == c) for t, a in zip(truth, said, strict=True) if t == c)

    def mean_recall(classes, said=answers):
        return mean(r for r in (recall(c, said) for c in sorted(classes)) if not math.isnan(r))

    def rate(whose, taken):
        return mean(float(taken(t, a)) for t, a in zip(truth, answers, strict=True) if t in whose)

    base_recall, new_recall = mean_recall(base), mean_recall(new)
    novel_only = NAN if novel_answers is None else harmonic(base_recall, mean_recall(new, novel_answers))
    return {
        "overall": mean(float(t == a) for t, a in zip(truth, answers, strict=True)),
        "base": base_recall,
        "new": new_recall,
        "harmonic_mean": harmonic(base_recall, new_recall),
        "new_to_base_rate": rate(new, lambda t, a: a in base),
        "new_to_new_rate": rate(new, lambda t, a: a in new and a != t),
        "base_to_new_rate": rate(base, lambda t, a: a in new),
        "gap": base_recall - new_recall,
        "old_current_harmonic_mean": harmonic(mean_recall(set(session_of) - current), mean_recall(current)),
        "novel_only_harmonic_mean": novel_only,
    }


def accuracy_of_session(truth, answers, session_of, session):
    return mean(float(t == a) for t, a in zip(truth, answers, strict=True) if session_of[t] == session)


def generalized_accuracy(accuracies, base_weight, n_steps=20_000):
    """The mean over sessions and, by the midpoint rule, over weights of the base classes."""
    found = []
    for t, row in enumerate(accuracies):
        weights = [(i + 0.5) * base_weight / n_steps for i in range(n_steps)] if base_weight else [0.0]
        found.append(mean((a * row[0] + sum(row[1 : t + 1])) / (a + t) for a in weights) if t else row[0])
    return mean(found)


def auroc(scores, is_positive):
    """Over all pairs of a positive and a negative: 1 if the positive scores more, 1/2 for a tie."""
    positives = [s for s, p in zip(scores, is_positive, strict=True) if p]
    negatives = [s for s, p in zip(scores, is_positive, strict=True) if not p]
    return mean(1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives)


def false_positive_rate_at(scores, is_positive, true_positive_rate):
    """Lower the threshold from score to score until enough positives pass."""
    positives = [s for s, p in zip(scores, is_positive, strict=True) if p]
    negatives = [s for s, p in zip(scores, is_positive, strict=True) if not p]
    for threshold in sorted(set(positives), reverse=True):
        if sum(s >= threshold for s in positives) / len(positives) >= true_positive_rate:
            return mean(float(s >= threshold) for s in negatives)
    return NAN


def nearest_mean_sessions(features, labels, draw):
    """Learn class means session by session; give each session's true classes, answers, answers among the new classes
    only, and the highest (negative squared distance) of seen and of unseen queries.

    ``draw`` holds pairs of support rows and query rows, and ``features`` lists of floats.
    """
    means, session_of, found = {}, {}, []
    for number, (support, query) in enumerate(draw):
        for c in sorted({labels[row] for row in support}):
            own = [features[row] for row in support if labels[row] == c]
            means[c] = [mean(column) for column in zip(*own, strict=True)]
            session_of[c] = number

        def score(row, c):
            return -sum((x - m) ** 2 for x, m in zip(features[row], means[c], strict=True))

        def best(row, classes):
            return max(classes, key=lambda c: score(row, c))  # noqa: B023

        new = [c for c in means if session_of[c] > 0]
        unseen = [row for row in draw[-1][1] if labels[row] not in means]
        found.append(
            {
                "truth": [labels[row] for row in query],
                "answers": [best(row, list(means)) for row in query],
                "novel_answers": [best(row, new or list(means)) for row in query],
                "session_of": dict(session_of),
                "highest_seen": [max(score(row, c) for c in means) for row in query],
                "highest_unseen": [max(score(row, c) for c in means) for row in unseen],
            }
        )
    return found
