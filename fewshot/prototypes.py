"""Class sums, class means, distances and logits: the base of all episode methods."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "class_counts",
    "class_means",
    "class_sums",
    "l2_normalize",
    "log_softmax_over_ways",
    "one_hot",
    "prototype_logits",
    "softmax_over_ways",
    "way_logits",
]


def one_hot(labels: Tensor, n_way: int, dtype: torch.dtype) -> Tensor:
    """Return labels as rows with a single 1.

    Parameters
    ----------
    labels : Tensor (..., n_items), int64
        In [0, n_way); -1 gives a row of zeros.
    n_way : int
    dtype : torch.dtype

    Returns
    -------
    Tensor (..., n_items, n_way)

    Examples
    --------
    >>> one_hot(torch.tensor([1, -1]), 2, torch.float32).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    return (labels[..., None] == torch.arange(n_way, device=labels.device)).to(dtype)


def class_counts(labels: Tensor, n_way: int, dtype: torch.dtype) -> Tensor:
    """Count the items of each class, shape (..., n_way); labels of -1 do not count."""
    return one_hot(labels, n_way, dtype).sum(-2)


def class_sums(features: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Return the sum of each class's features, shape (..., n_way, n_features); labels of -1 do not count."""
    return one_hot(labels, n_way, features.dtype).mT @ features


def class_means(features: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Average each class's features: the prototypes.

    Parameters
    ----------
    features : Tensor (..., n_items, n_features)
    labels : Tensor (..., n_items), int64
        In [0, n_way), or -1 for an item that does not count.
    n_way : int

    Returns
    -------
    Tensor (..., n_way, n_features)
        Zero for a class without items.

    Source
    ------
    Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017, Eq. 1.

    Examples
    --------
    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), 2).tolist()
    [[2.0], [5.0]]
    """
    counts = class_counts(labels, n_way, features.dtype).clamp(min=1)
    return class_sums(features, labels, n_way) / counts[..., None]


def prototype_logits(query: Tensor, prototypes: Tensor) -> Tensor:
    """Score queries against prototypes: z·θ_k - ½‖θ_k‖², which is -½‖z - θ_k‖² up to a constant per query.

    Parameters
    ----------
    query : Tensor (..., n_queries, n_features)
    prototypes : Tensor (..., n_way, n_features)

    Returns
    -------
    Tensor (..., n_queries, n_way)
        Stored way by way, see `softmax_over_ways`.
    """
    squared_norms: Tensor = torch.linalg.vector_norm(prototypes, dim=-1, keepdim=True).square()
    return (prototypes @ query.mT - 0.5 * squared_norms).mT


def l2_normalize(features: Tensor) -> Tensor:
    """Scale each feature vector to unit Euclidean norm; a zero vector stays zero."""
    return torch.nn.functional.normalize(features, dim=-1)


def softmax_over_ways(logits: Tensor) -> Tensor:
    """Return the softmax over the last dimension of (..., n_queries, n_way) logits.

    Values that are stored way by way (a transposed view) are handled in that order, which for few ways is ten times as
    fast as row by row; the result is stored likewise.
    """
    return logits.mT.softmax(-2).mT


def log_softmax_over_ways(logits: Tensor) -> Tensor:
    """Return the log-softmax over the last dimension of (..., n_queries, n_way) logits, see `softmax_over_ways`."""
    return logits.mT.log_softmax(-2).mT


def way_logits(logits: Tensor, way_mask: Tensor | None) -> Tensor:
    """Mask absent ways: minus infinity where ``way_mask`` (..., n_way) is False."""
    return logits if way_mask is None else logits.masked_fill(~way_mask[..., None, :], -torch.inf)
