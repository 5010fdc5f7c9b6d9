"""A profile and example rows of each class that a discovery found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.profiles import Step, distance_to_mean, first_of_each, lineages, nearest_known
from fewshot.evaluation.discovery.found import FoundClasses
from fewshot.evaluation.discovery.pool import DiscoveryPool

__all__ = ["MAX_EXAMPLES", "UNSURE", "ClassProfile", "Examples", "choose_examples", "class_profiles"]

UNSURE = 0.5
"""The probability below which a row is called unsure."""
MAX_EXAMPLES = 2400
"""Most example rows of all classes together."""


class ClassProfile(NamedTuple):
    """The size of a class, its certainty, its nearest known class and its lineage.

    Attributes
    ----------
    name : str
    is_known : bool
    n_rows, n_labelled, n_unlabelled : int
    mean_probability : float, or None
        Of its unlabelled rows; None if it has none.
    n_unsure : int
        Unlabelled rows of a probability below `UNSURE`.
    nearest_known : str, or None
        The known class, other than itself, with the most similar mean; None if there is none.
    nearest_known_cosine : float, or None
    lineage : tuple of Step
        The accepted proposals that led to it, the last first.
    """

    name: str
    is_known: bool
    n_rows: int
    n_labelled: int
    n_unlabelled: int
    mean_probability: float | None
    n_unsure: int
    nearest_known: str | None
    nearest_known_cosine: float | None
    lineage: tuple[Step, ...]


class Examples(NamedTuple):
    """Rows that stand for one class: labelled ones, and the most typical and the least certain of the others."""

    labelled: list[int]
    typical: list[int]
    unsure: list[int]


def class_profiles(data: DiscoveryPool, found: FoundClasses, directions: Tensor) -> list[ClassProfile]:
    """Describe each class.

    Parameters
    ----------
    data : DiscoveryPool
    found : FoundClasses
    directions : Tensor (n_classes, n_features)
        Of `fewshot.discovery.profiles.mean_directions`.
    """
    free = data.is_unlabelled
    n_rows, n_free = _counts(found.labels, found.n_classes), _counts(found.labels[free], found.n_classes)
    n_unsure = _counts(found.labels[free & (found.probability < UNSURE)], found.n_classes)
    total = torch.zeros(found.n_classes, dtype=torch.float64)
    total.index_add_(0, found.labels[free], found.probability[free].double())
    near = [_nearest(*pair, found.names) for pair in zip(*nearest_known(directions, found.n_known), strict=True)]
    steps = lineages(found.proposals, found.component_ids) if found.component_ids else [()] * found.n_classes
    return [
        ClassProfile(
            name=name,
            is_known=k < found.n_known,
            n_rows=n_rows[k],
            n_labelled=n_rows[k] - n_free[k],
            n_unlabelled=n_free[k],
            mean_probability=float(total[k]) / n_free[k] if n_free[k] else None,
            n_unsure=n_unsure[k],
            nearest_known=near[k][0],
            nearest_known_cosine=near[k][1],
            lineage=steps[k],
        )
        for k, name in enumerate(found.names)
    ]


def _counts(labels: Tensor, n_classes: int) -> list[int]:
    return [int(count) for count in torch.bincount(labels, minlength=n_classes)]


def _nearest(known: Tensor, cosine: Tensor, names: list[str]) -> tuple[str | None, float | None]:
    return (None, None) if known < 0 else (names[int(known)], round(float(cosine), 4))


def choose_examples(data: DiscoveryPool, found: FoundClasses, directions: Tensor, n_examples: int) -> list[Examples]:
    """Choose the rows that stand for each class.

    Parameters
    ----------
    data : DiscoveryPool
    found : FoundClasses
    directions : Tensor (n_classes, n_features)
        Of `fewshot.discovery.profiles.mean_directions`; typical rows are the nearest to it where the method has no
        outlier score.
    n_examples : int
        Typical rows of a class; fewer where all classes together would have more than `MAX_EXAMPLES` rows.
    """
    score = found.outlier_score
    if score is None:
        score = distance_to_mean(data.pool.features, found.labels, directions)
    share = MAX_EXAMPLES // max(1, found.n_classes)
    n_unsure, n_labelled = min(3, share // 4), min(2, share // 5)
    n_typical = max(1, min(n_examples, share - n_unsure - n_labelled))
    unlabelled = torch.where(data.is_unlabelled, found.labels, -1)
    typical = first_of_each(unlabelled, score, n_typical)
    others = unlabelled.index_fill(0, typical, -1)
    unsure = first_of_each(others, _certainty_rank(found.probability, score), n_unsure)
    labelled = first_of_each(torch.where(data.is_unlabelled, -1, found.labels), score, n_labelled)
    parts = [_by_class(rows, found) for rows in (labelled, typical, unsure)]
    return [Examples(*rows) for rows in zip(*parts, strict=True)]


def _certainty_rank(probability: Tensor, score: Tensor) -> Tensor:
    """Rank rows from the least certain; of equally certain ones, the farthest from its class comes first."""
    far_first = torch.argsort(score, descending=True, stable=True)
    order = far_first[torch.argsort(probability[far_first], stable=True)]
    return torch.argsort(order)


def _by_class(rows: Tensor, found: FoundClasses) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in found.names]
    for row, label in zip(rows.tolist(), found.labels[rows].tolist(), strict=True):
        parts[label].append(row)
    return parts
