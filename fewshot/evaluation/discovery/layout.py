"""A map of a pool: rows placed in the plane, with as many rows of each found class as the room allows."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.profiles import balanced_rows, place_beside
from fewshot.features import FeatureSet

__all__ = ["GRID", "PoolMap", "lay_out"]

GRID = 4095
"""The largest coordinate of a map."""
_MAX_POINTS = 20_000


class PoolMap(NamedTuple):
    """Rows (n_points,), and their places (n_points, 2) in the plane: whole numbers in [0, `GRID`]."""

    rows: Tensor
    places: Tensor


def lay_out(pool: FeatureSet, labels: Tensor, *, n_rows: int, seed: int) -> PoolMap | None:
    """Place rows in the plane: some by t-SNE, others beside their nearest neighbours among these.

    Parameters
    ----------
    pool : FeatureSet
    labels : Tensor (n,), int64
        The found class of each row; rows of small classes are preferred.
    n_rows : int
        Rows that t-SNE places. Fewer than 3, or a pool of fewer: None.
    seed : int

    Returns
    -------
    PoolMap, or None
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
    scale = GRID / float((high - low).max().clamp(min=1e-12))
    return PoolMap(rows, ((placed - low) * scale).round().long().clamp(0, GRID))
