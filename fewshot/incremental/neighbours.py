"""Exact search for the nearest of very many prototypes, by faiss where it is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["MANY_CLASSES", "nearest"]

MANY_CLASSES = 100_000

# Scores held at a time without faiss.
_MAX_SCORES = 2**25


def nearest(rows: Tensor, vectors: Tensor, *, metric: str) -> tuple[Tensor, Tensor]:
    """Find the vector with the largest inner product, or the smallest Euclidean distance, for each row.

    Parameters
    ----------
    rows : Tensor (n, n_features)
    vectors : Tensor (n_classes, n_features)
    metric : {"cosine", "euclidean"}
        ``cosine`` takes the inner product: both are of unit length.

    Returns
    -------
    scores : Tensor (n,)
        The inner product, or -½ of the squared distance.
    positions : Tensor (n,), int64

    Notes
    -----
    The same answers with faiss and without it, up to rounding.
    """
    if rows.device.type == "cpu" and find_spec("faiss") is not None:
        return _by_faiss(rows, vectors, metric)
    offsets = torch.zeros_like(vectors[:, 0]) if metric == "cosine" else -0.5 * vectors.square().sum(1)
    size = max(1, _MAX_SCORES // len(vectors))
    parts = [torch.addmm(offsets, part, vectors.mT).max(1) for part in torch.split(rows, size)]
    scores, positions = torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
    return (scores if metric == "cosine" else scores - 0.5 * rows.square().sum(1)), positions


def _by_faiss(rows: Tensor, vectors: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    faiss = import_module("faiss")
    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    found, positions = faiss.knn(rows.float().numpy(), vectors.float().numpy(), 1, metric=kind)
    scores = torch.from_numpy(found[:, 0]).to(rows.dtype)
    return (scores if metric == "cosine" else -0.5 * scores), torch.from_numpy(positions[:, 0])
