"""Weighted nearest neighbours, as DINO and DINOv2 judge features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.checks import check_positive
from fewshot.probing.inputs import check_labels, check_query_and_gallery
from fewshot.prototypes import l2_normalize

__all__ = ["nearest_rows", "neighbour_scores"]


def neighbour_scores(
    query: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    n_neighbours: Sequence[int] = (10, 20, 100, 200),
    *,
    temperature: float = 0.07,
    is_leave_one_out: bool = False,
    batch_size: int = 256,
) -> Tensor:
    """Score classes by their weight among a query's nearest neighbours in cosine.

    ::

        s_j = cos(q, x_j)     w_j = exp(s_j / T) / Σ_{j' among the nearest K} exp(s_j' / T)
        score_k(q) = Σ_{j among the nearest k} w_j [y_j = k]          K the largest of the k

    Parameters
    ----------
    query : Tensor (n_queries, n_features)
        Normalised here, as the gallery is.
    gallery : Tensor (n_gallery, n_features)
    gallery_labels : Tensor (n_gallery,), integer
        0, 1, ..., each at least once.
    n_neighbours : sequence of int
        The k; DINOv2's by default. Those larger than the gallery take all of it, with a warning.
    temperature : float
        T; DINO's and DINOv2's by default.
    is_leave_one_out : bool
        The gallery is the queries, row for row: no query is its own neighbour.
    batch_size : int
        Most queries at once: bounds the memory, together with the gallery's size, and changes no result.

    Returns
    -------
    Tensor (n_k, n_queries, n_classes)
        For each k. Sums over the classes to 1 for the largest k, to less for the others: the answer is the largest.

    Raises
    ------
    TypeError, ValueError
        If the inputs are not so, a k or the temperature is not positive, or left-out rows do not match.

    Notes
    -----
    Of neighbours that are equally near, the first rows of the gallery are taken.

    Source
    ------
    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (DINO), ICCV 2021, and its code.
    Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024, and its code.

    Examples
    --------
    >>> gallery, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]), torch.tensor([0, 1, 1])
    >>> neighbour_scores(torch.tensor([[3.0, 3.0]]), gallery, labels, [2])
    tensor([[[0.5000, 0.5000]]])
    """
    query, gallery = check_query_and_gallery(query, gallery, is_leave_one_out=is_leave_one_out)
    n_classes = check_labels(gallery_labels, len(gallery))
    check_positive("temperature", temperature)
    kept = _within(n_neighbours, len(gallery) - is_leave_one_out)
    query, gallery = l2_normalize(query), l2_normalize(gallery)
    parts = []
    for start in range(0, len(query), batch_size):
        cosines = query[start : start + batch_size] @ gallery.mT
        if is_leave_one_out:
            cosines.diagonal(start).fill_(-torch.inf)
        parts.append(_class_weights(cosines, gallery_labels, n_classes, kept, temperature))
    return torch.cat(parts, dim=1)


def nearest_rows(similarities: Tensor, k: int) -> Tensor:
    """Find the k largest entries of each row, in order; of equal ones the first.

    Parameters
    ----------
    similarities : Tensor (n_queries, n_gallery)
    k : int
        At most n_gallery.

    Returns
    -------
    Tensor (n_queries, k), int64

    Examples
    --------
    >>> nearest_rows(torch.tensor([[0.5, 0.9, 0.5, 0.5]]), 3).tolist()
    [[1, 0, 2]]
    """
    last = similarities.topk(k, dim=-1).values[:, -1:]
    is_above, is_last = similarities > last, similarities == last
    n_open = k - is_above.sum(-1, keepdim=True)
    is_taken = is_above | (is_last & (is_last.cumsum(-1) <= n_open))
    rows = is_taken.nonzero()[:, 1].view(-1, k)
    order = similarities.gather(-1, rows).sort(dim=-1, descending=True, stable=True).indices
    return rows.gather(-1, order)


def _within(n_neighbours: Sequence[int], n_there: int) -> list[int]:
    """Check the numbers of neighbours, and limit them to the number of rows."""
    if not n_neighbours:
        raise ValueError("n_neighbours must hold at least one number, got none")
    for k in n_neighbours:
        check_positive("n_neighbours", k)
    if max(n_neighbours) > n_there:
        warnings.warn(
            f"k = {max(n_neighbours)} neighbours were asked for, but there are {n_there}: all of them vote",
            stacklevel=3,
        )
    return [min(k, n_there) for k in n_neighbours]


def _class_weights(
    cosines: Tensor, gallery_labels: Tensor, n_classes: int, n_neighbours: list[int], temperature: float
) -> Tensor:
    rows = nearest_rows(cosines, max(n_neighbours))
    weights = (cosines.gather(-1, rows) / temperature).softmax(-1)
    labels = gallery_labels[rows].long()
    zeros = weights.new_zeros(len(cosines), n_classes)
    return torch.stack([zeros.scatter_add(-1, labels[:, :k], weights[:, :k]) for k in n_neighbours])
