"""Rankings, average precision, neighbours and set distances as plain loops. Imports nothing of the library."""

from __future__ import annotations

import math

import numpy as np


def precision_and_recall(scores, is_positive, threshold):
    """Precision and recall among the items that score ``threshold`` or more."""
    found = [positive for score, positive in zip(scores, is_positive, strict=True) if score >= threshold]
    return sum(found) / len(found), sum(found) / sum(is_positive)


def curve(scores, is_positive):
    """(recall, precision) at every distinct score, best first."""
    points = []
    for threshold in sorted(set(scores), reverse=True):
        precision, recall = precision_and_recall(scores, is_positive, threshold)
        points.append((recall, precision))
    return points


def envelope(points, recall):
    """The highest precision at this recall or a higher one."""
    return max((precision for other, precision in points if other >= recall), default=0.0)


def average_precision(scores, is_positive, variant):
    """The three definitions: precision summed over the positives, or over steps of recall under the envelope."""
    scores, is_positive = list(map(float, scores)), list(map(bool, is_positive))
    if not any(is_positive):
        return math.nan
    points = curve(scores, is_positive)
    if variant == "11-point":
        return sum(envelope(points, tenth / 10) for tenth in range(11)) / 11
    area, previous = 0.0, 0.0
    for recall, precision in points:
        height = precision if variant == "hits" else envelope(points, recall)
        area += (recall - previous) * height
        previous = recall
    return area


def ranking(query, gallery):
    """Rows of the gallery from near to far, the first rows first where the distance is the same."""
    distances = [sum((q - x) ** 2 for q, x in zip(query, row, strict=True)) for row in gallery]
    return sorted(range(len(gallery)), key=lambda row: (distances[row], row)), distances


def retrieval(query, query_labels, gallery, gallery_labels, is_leave_one_out):
    """Rank-1, Rank-5, average precision and recall@4 of each query."""
    found = []
    for position, (q, label) in enumerate(zip(query, query_labels, strict=True)):
        rows = [row for row in range(len(gallery)) if not (is_leave_one_out and row == position)]
        order, distances = ranking(q, [gallery[row] for row in rows])
        is_match = [bool(gallery_labels[row] == label) for row in rows]
        in_order = [is_match[place] for place in order]
        n_match = sum(is_match)
        if n_match == 0:
            found.append([math.nan] * 4)
            continue
        precision = average_precision([-distance for distance in distances], is_match, "hits")
        found.append([float(in_order[0]), float(any(in_order[:5])), precision, sum(in_order[:4]) / n_match])
    return np.array(found)


def neighbour_scores(query, gallery, labels, n_classes, n_neighbours, temperature, is_leave_one_out):
    """Weighted votes (n_k, n_queries, n_classes), the weights a softmax over the largest k."""
    scores = np.zeros((len(n_neighbours), len(query), n_classes))
    for position, q in enumerate(query):
        rows = [row for row in range(len(gallery)) if not (is_leave_one_out and row == position)]
        cosine = {row: q @ gallery[row] / math.sqrt((q @ q) * (gallery[row] @ gallery[row])) for row in rows}
        order = sorted(rows, key=lambda row: (-cosine[row], row))[: max(n_neighbours)]
        total = sum(math.exp(cosine[row] / temperature) for row in order)
        for which, k in enumerate(n_neighbours):
            for row in order[:k]:
                scores[which, position, labels[row]] += math.exp(cosine[row] / temperature) / total
    return scores


def set_distance(query_regions, reference_regions):
    """The mean over a query's regions of the distance to the nearest region of a reference."""
    distances = np.zeros((len(query_regions), len(reference_regions)))
    for i, query in enumerate(query_regions):
        for j, reference in enumerate(reference_regions):
            nearest = [min(math.sqrt(((q - r) ** 2).sum()) for r in reference) for q in query]
            distances[i, j] = sum(nearest) / len(nearest)
    return distances
