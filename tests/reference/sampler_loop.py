"""Episode sampling the ordinary way, one episode and one class at a time: benchmark baseline and truth for counts.

Imports nothing of the library.
"""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import NamedTuple


class LoopEpisode(NamedTuple):
    """One episode as lists of positions in the pool and labels in [0, n_way)."""

    class_ids: list[int]
    support_index: list[int]
    support_labels: list[int]
    query_index: list[int]
    query_labels: list[int]


class LoopEpisodeSampler:
    """Yield ``n_episodes`` n-way k-shot episodes whose support and query never share an item.

    Queries fall in the first ``n_effective_way`` classes drawn (all of them unless told otherwise): ``n_query`` of each
    (balanced), or ``n_query_total`` drawn from what those classes have left, pooled (uniform over images). Labels
    follow the sorted class ids.
    """

    def __init__(
        self, labels, n_way, n_shot, n_episodes, *, n_query=None, n_query_total=None, n_effective_way=None, seed=0
    ):
        if (n_query is None) == (n_query_total is None):
            raise ValueError("give exactly one of n_query and n_query_total")
        self.n_way, self.n_shot, self.n_episodes = n_way, n_shot, n_episodes
        self.n_query, self.n_query_total = n_query, n_query_total
        self.n_effective_way = n_way if n_effective_way is None else n_effective_way
        self.random = random.Random(seed)
        self.items_per_label = {}
        for item, label in enumerate(labels):
            self.items_per_label.setdefault(int(label), []).append(item)
        if n_way > len(self.items_per_label):
            raise ValueError(f"{n_way} ways asked of a pool of {len(self.items_per_label)} classes")
        needed = n_shot + (n_query or 0)
        for label, items in self.items_per_label.items():
            if len(items) < needed:
                raise ValueError(f"class {label} has {len(items)} items, {needed} are needed")

    def __len__(self):
        return self.n_episodes

    def __iter__(self):
        for _ in range(self.n_episodes):
            yield self.sample_episode()

    def sample_episode(self):
        drawn = self.random.sample(sorted(self.items_per_label), self.n_way)
        effective = set(drawn[: self.n_effective_way])
        support, query, left = [], [], []
        class_ids = sorted(drawn)
        for new_label, class_id in enumerate(class_ids):
            items = self.items_per_label[class_id]
            if self.n_query is not None:
                n_query = self.n_query if class_id in effective else 0
                chosen = self.random.sample(items, self.n_shot + n_query)
                query += [(item, new_label) for item in chosen[self.n_shot :]]
            else:
                chosen = self.random.sample(items, self.n_shot)
                if class_id in effective:
                    taken = set(chosen)
                    left += [(item, new_label) for item in items if item not in taken]
            support += [(item, new_label) for item in chosen[: self.n_shot]]
        if self.n_query_total is not None:
            query = self.random.sample(left, self.n_query_total)
        return LoopEpisode(
            class_ids,
            [item for item, _ in support],
            [label for _, label in support],
            [item for item, _ in query],
            [label for _, label in query],
        )


def meta_dataset_counts(
    images_per_class, u_beta, u_log_weights, max_query=10, max_support=500, max_support_per_class=100
):
    """Return (shots per class, queries per class) of Meta-Dataset's variable way and shot, given its uniform draws.

    ``u_beta`` in [0, 1) is beta itself; ``u_log_weights`` in [0, 1), one a class, become log w in [log 1/2, log 2).
    """
    n_way = len(images_per_class)
    # q = min(max_query, floor(1/2 min_c size_c)), the same for every class
    n_query = min(max_query, min(images_per_class) // 2)
    # r_c = size_c - q
    remaining = [size - n_query for size in images_per_class]
    # total = min(max_support, sum_c floor(beta min(max_support_per_class, r_c) + 1))
    total = 0
    for r in remaining:
        total += math.floor(u_beta * min(max_support_per_class, r) + 1)
    total = min(max_support, total)
    if total < n_way:
        raise ValueError(f"{n_way} classes do not fit in a support of at most {max_support}")
    # w_c = size_c exp(log w_c)
    weights = []
    for size, u in zip(images_per_class, u_log_weights, strict=True):
        weights.append(size * math.exp(math.log(0.5) + u * (math.log(2.0) - math.log(0.5))))
    # k_c = min( floor( w_c / sum w (total - n_way) ) + 1, r_c )
    shots = []
    for weight, r in zip(weights, remaining, strict=True):
        shots.append(min(math.floor(weight / sum(weights) * (total - n_way)) + 1, r))
    return shots, n_query


def largest_remainder_counts(shares, total, limits):
    """Share out ``total`` whole items in proportion to ``shares``, none above its limit; exact rational arithmetic.

    What is above a limit goes to the others in proportion to their shares, again and again until nothing is above
    (equally, when the others all have share 0). Then floors, and the missing units to the largest remainders, the
    first of equal ones first.
    """
    if total > sum(limits):
        raise ValueError(f"{total} items asked of classes that can give {sum(limits)}")
    shares = [Fraction(share) for share in shares]
    quota = [Fraction(0)] * len(shares)
    is_open = [True] * len(shares)
    while any(is_open):
        left = total - sum(quota[c] for c in range(len(shares)) if not is_open[c])
        if not any(shares[c] for c in range(len(shares)) if is_open[c]):
            shares = [Fraction(1) if is_open[c] else shares[c] for c in range(len(shares))]
        open_total = sum(shares[c] for c in range(len(shares)) if is_open[c])
        for c in range(len(shares)):
            if is_open[c]:
                quota[c] = left * shares[c] / open_total
        above = [c for c in range(len(shares)) if is_open[c] and quota[c] > limits[c]]
        if not above:
            break
        for c in above:
            quota[c], is_open[c] = Fraction(limits[c]), False
    counts = [math.floor(value) for value in quota]
    by_remainder = sorted(range(len(shares)), key=lambda c: (counts[c] - quota[c], c))
    for c in by_remainder[: total - sum(counts)]:
        counts[c] += 1
    return counts
