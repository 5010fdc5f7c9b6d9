"""The checks of this package's doors: feature rows, and labels that number their classes without a gap."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.checks import check_finite

__all__ = ["check_labels", "check_query_and_gallery", "check_rows", "check_same_width", "widened"]


def widened(features: Tensor) -> Tensor:
    """Return half precision and bfloat16 as float32, in which the statistics and norms are safe."""
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features


def check_rows(what: str, features: Tensor) -> Tensor:
    """Return features (n, n_features), finite and at least in float32.

    Raises
    ------
    TypeError
        If they are not a floating tensor.
    ValueError
        If they are no matrix, empty or not finite.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{what} must be a floating tensor, got {kind}")
    if features.dim() != 2 or 0 in features.shape:
        raise ValueError(
            f"{what} must have shape (n, n_features), at least one of each, got {tuple(features.shape)}: "
            "bring views to rows with flatten_views"
        )
    return widened(check_finite(what, features))


def check_same_width(what: str, features: Tensor, n_features: int) -> Tensor:
    """Return ``features`` (..., n_features) if their last dimension is as expected.

    Raises
    ------
    ValueError
        Otherwise.
    """
    if features.shape[-1] != n_features:
        raise ValueError(
            f"{what} must have {n_features} features a row, got {features.shape[-1]}: take both from one extractor"
        )
    return features


def check_query_and_gallery(query: Tensor, gallery: Tensor, *, is_leave_one_out: bool) -> tuple[Tensor, Tensor]:
    """Return queries and gallery (n, n_features), finite, of one width and at least in float32.

    Raises
    ------
    TypeError, ValueError
        If one of them is not so, or leave-one-out gets a gallery of another shape than the queries.
    """
    query, gallery = check_rows("query", query), check_rows("gallery", gallery)
    check_same_width("query", query, gallery.shape[1])
    if is_leave_one_out and query.shape != gallery.shape:
        raise ValueError(
            f"leave-one-out takes the gallery for queries, got {len(query)} queries and {len(gallery)} gallery rows"
        )
    return query, gallery


def check_labels(labels: Tensor, n: int) -> int:
    """Return the number of classes of ``labels`` (n,), which are 0, 1, ..., each at least once.

    Raises
    ------
    ValueError
        If the shape is another, the labels are not integers from 0, a number is left out, or there is but one class.
    """
    if labels.shape != (n,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be {n} integers, one a row, got {labels.dtype} of shape {tuple(labels.shape)}")
    if int(labels.min()) < 0:
        raise ValueError(f"labels must be 0, 1, ..., got {int(labels.min())}: leave unlabelled rows out")
    counts = torch.bincount(labels)
    if bool((counts == 0).any()):
        raise ValueError(f"labels must number the classes without a gap: class {int(counts.argmin())} has no row")
    if len(counts) < 2:
        raise ValueError("labels must hold at least two classes, got 1")
    return len(counts)
