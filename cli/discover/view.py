"""What the report shows of a discovery: a profile and some rows of each class, their pictures, and a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.profiles import (
    Step,
    balanced_rows,
    distance_to_mean,
    first_of_each,
    lineages,
    mean_directions,
    nearest_known,
    place_beside,
)
from fewshot.features import FeatureSet

from ..shared.pictures import Picture
from .fit import Found
from .pool import DiscoveryPool

__all__ = ["UNSURE", "Examples", "Map", "View", "choose_examples", "class_profiles", "lay_out"]

# Below this probability a row is called unsure.
UNSURE = 0.5
_MAX_PICTURES = 2400
_MAX_POINTS = 20_000
_GRID = 4095
_VERBS = {"shed": "left", "split": "split off", "merge": "merged from"}


class Examples(NamedTuple):
    """Rows to show of one class: labelled ones, the most typical and the least sure of the others."""

    labelled: list[int]
    typical: list[int]
    unsure: list[int]


class Map(NamedTuple):
    """Places of rows in the plane, whole numbers in [0, 4095]: (n_points,) and (n_points, 2)."""

    rows: Tensor
    places: Tensor


class View(NamedTuple):
    """What a report holds besides the summary.

    Attributes
    ----------
    examples : list of Examples
        One a class.
    pictures : dict, or None
        By row; None where the features do not say what their images are.
    data : DiscoveryPool
    found : Found
    map : Map, or None
    notes : list of str
        What the user should know of the pictures.
    """

    examples: list[Examples]
    pictures: Mapping[int, Picture] | None
    data: DiscoveryPool
    found: Found
    map: Map | None
    notes: list[str]

    def name_of(self, row: int) -> str:
        """Return the name of a row's image, or its number."""
        ids = self.data.pool.ids
        return f"row {row}" if ids is None else ids[row]


def class_profiles(data: DiscoveryPool, found: Found) -> list[dict[str, Any]]:
    """Return what the summary says of each class."""
    is_free = data.shown < 0
    n_rows, n_free = (_counts(found.labels[rows], found.n_classes) for rows in (torch.ones_like(is_free), is_free))
    sure = torch.zeros(found.n_classes, dtype=torch.float64)
    sure.index_add_(0, found.labels[is_free], found.probability[is_free].double())
    n_unsure = _counts(found.labels[is_free & (found.probability < UNSURE)], found.n_classes)
    directions = mean_directions(data.pool.features, found.labels, found.n_classes)
    nearest, cosine = nearest_known(directions, found.n_known)
    steps = lineages(found.proposals, found.component_ids) if found.component_ids else [()] * found.n_classes
    return [
        {
            "name": name,
            "is_known": number < found.n_known,
            "n_rows": n_rows[number],
            "n_labelled": n_rows[number] - n_free[number],
            "n_unlabelled": n_free[number],
            "mean_probability": float(sure[number]) / n_free[number] if n_free[number] else None,
            "n_unsure": n_unsure[number],
            "nearest_known": None if nearest[number] < 0 else found.names[int(nearest[number])],
            "nearest_known_cosine": None if nearest[number] < 0 else round(float(cosine[number]), 4),
            "came_from": _lineage_words(steps[number], found),
            "lineage": [step._asdict() for step in steps[number]],
        }
        for number, name in enumerate(found.names)
    ]


def _counts(labels: Tensor, n_classes: int) -> list[int]:
    return [int(count) for count in torch.bincount(labels, minlength=n_classes)]


def _lineage_words(steps: Sequence[Step], found: Found) -> str:
    """Say how a class came about, the last move first: "split off #12 (round 3); #12 left crow (round 1)".

    People count rounds from 1, as the report's chart does.
    """
    names = {component: found.names[number] for number, component in enumerate(found.component_ids or [])}
    words = []
    for step in steps:
        subject = "" if step.component == steps[0].component else f"{_component(step.component, names)} "
        others = [_component(parent, names) for parent in step.parents if parent != step.component]
        verb = "took in" if step.component in step.parents else _VERBS.get(step.kind, step.kind)
        words.append(f"{subject}{verb} {' and '.join(others)} (round {step.round + 1})")
    return "; ".join(words)


def _component(component: int, names: Mapping[int, str]) -> str:
    return names.get(component, f"#{component}")


def choose_examples(data: DiscoveryPool, found: Found, n_examples: int) -> list[Examples]:
    """Choose the rows to show of each class: ``n_examples`` typical ones, fewer where there are many classes."""
    score = found.outlier_score
    if score is None:
        directions = mean_directions(data.pool.features, found.labels, found.n_classes)
        score = distance_to_mean(data.pool.features, found.labels, directions)
    share = _MAX_PICTURES // max(1, found.n_classes)
    n_unsure, n_labelled = min(3, share // 4), min(2, share // 5)
    n_typical = max(1, min(n_examples, share - n_unsure - n_labelled))
    free = torch.where(data.shown < 0, found.labels, -1)
    typical = first_of_each(free, score, n_typical)
    others = free.index_fill(0, typical, -1)
    unsure = first_of_each(others, _doubt(found.probability, score), n_unsure)
    labelled = first_of_each(torch.where(data.shown < 0, -1, found.labels), score, n_labelled)
    parts = [_by_class(rows, found) for rows in (labelled, typical, unsure)]
    return [Examples(*rows) for rows in zip(*parts, strict=True)]


def _doubt(probability: Tensor, score: Tensor) -> Tensor:
    """Rank rows from the least sure; of equally sure ones, the farthest from its class comes first."""
    far_first = torch.argsort(score, descending=True, stable=True)
    order = far_first[torch.argsort(probability[far_first], stable=True)]
    return torch.argsort(order)


def _by_class(rows: Tensor, found: Found) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in found.names]
    for row, label in zip(rows.tolist(), found.labels[rows].tolist(), strict=True):
        parts[label].append(row)
    return parts


def lay_out(pool: FeatureSet, labels: Tensor, n_rows: int, seed: int) -> Map | None:
    """Place rows in the plane: ``n_rows`` of them by t-SNE, others beside their neighbours among these.

    None where nothing is asked for, or there are too few rows.
    """
    if n_rows < 3 or len(labels) < 3:
        return None
    from fewshot.features.map2d import map_in_2d

    generator = torch.Generator().manual_seed(seed)
    rows = balanced_rows(labels, _MAX_POINTS, generator=generator)
    anchors = balanced_rows(labels[rows], n_rows, generator=generator)
    bare = replace(pool, labels=torch.full_like(pool.labels, -1), class_names=())
    _, places = map_in_2d(bare.select_rows(rows[anchors]), n_rows=len(anchors), seed=seed)
    placed = place_beside(pool.features[rows].float(), anchors, torch.from_numpy(places))
    low, high = placed.min(0).values, placed.max(0).values
    scale = _GRID / float((high - low).max().clamp(min=1e-12))
    return Map(rows, ((placed - low) * scale).round().long().clamp(0, _GRID))
