"""Retrieval by Euclidean distance: how early items of the query's class come; distances between sets of regions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.metrics.classification import average_precision
from fewshot.probing.inputs import check_query_and_gallery, check_same_width, widened
from fewshot.probing.neighbours import nearest_rows

__all__ = ["RetrievalScores", "ranking_scores", "retrieval_scores", "set_distance"]


class RetrievalScores(NamedTuple):
    """Retrieval scores of each query; float64, NaN for a query without a relevant item.

    Attributes
    ----------
    rank_1, rank_5 : Tensor (n_queries,)
        1 if the nearest, or one of the nearest 5, is of the query's class. (Metric learning calls these Recall@1 and
        Recall@5.)
    average_precision : Tensor (n_queries,)
        The mean of the precisions at the hits; its mean over the queries is mAP.
    recall_at_4 : Tensor (n_queries,)
        Share of the items of the query's class that are among the nearest 4 (UKBench).
    """

    rank_1: Tensor
    rank_5: Tensor
    average_precision: Tensor
    recall_at_4: Tensor

    @property
    def n_unanswerable(self) -> int:
        """The number of queries with no item of their class to find."""
        return int(self.rank_1.isnan().sum())

    def means(self) -> dict[str, float]:
        """Return the means over the queries that have something to find, by name; the mean of AP is called mAP."""
        names = ("rank_1", "rank_5", "mean_average_precision", "recall_at_4")
        return {name: float(values.nanmean()) for name, values in zip(names, self, strict=True)}


def retrieval_scores(
    query: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    *,
    is_leave_one_out: bool = False,
    batch_size: int = 256,
) -> RetrievalScores:
    """Rank a gallery by Euclidean distance to each query, and score the ranks of its class's items.

    Parameters
    ----------
    query : Tensor (n_queries, n_features)
        Post-processed as wanted; of unit norm, the ranking is that of cosines.
    query_labels : Tensor (n_queries,), integer
        Numbered as the gallery's.
    gallery : Tensor (n_gallery, n_features)
    gallery_labels : Tensor (n_gallery,), integer
    is_leave_one_out : bool
        The gallery is the queries, row for row: no query finds itself.
    batch_size : int
        Most queries at once: bounds the memory, together with the gallery's size, and changes no result.

    Raises
    ------
    TypeError, ValueError
        If the inputs do not fit.

    Notes
    -----
    Of items that are equally near, the first rows of the gallery count as nearer; for average precision they enter
    together, see `fewshot.metrics.classification.average_precision`.

    Examples
    --------
    >>> features, labels = torch.tensor([[0.0], [1.0], [5.0], [6.5]]), torch.tensor([0, 0, 1, 1])
    >>> retrieval_scores(features, labels, features, labels, is_leave_one_out=True).means()["rank_1"]
    1.0
    """
    query, gallery = check_query_and_gallery(query, gallery, is_leave_one_out=is_leave_one_out)
    _check_labelled("query", query, query_labels)
    _check_labelled("gallery", gallery, gallery_labels)
    # q·x - ½‖x‖² is -½‖q - x‖² up to a constant per query.
    half_squared_norms, parts = gallery.square().sum(-1) / 2, []
    for start in range(0, len(query), batch_size):
        rows = slice(start, start + batch_size)
        similarities = query[rows] @ gallery.mT - half_squared_norms
        is_match = query_labels[rows, None] == gallery_labels
        if is_leave_one_out:
            similarities.diagonal(start).fill_(-torch.inf)
            is_match.diagonal(start).fill_(False)
        parts.append(ranking_scores(similarities, is_match))
    return RetrievalScores(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def ranking_scores(similarities: Tensor, is_match: Tensor) -> RetrievalScores:
    """Score rankings that are at hand, such as those by minus a `set_distance`.

    Parameters
    ----------
    similarities : Tensor (n_queries, n_gallery)
        The higher, the nearer; minus infinity for what is not to be found, such as the query itself.
    is_match : Tensor (n_queries, n_gallery), bool
        Whether an item is of the query's class.

    Examples
    --------
    >>> scores = ranking_scores(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[False, True, True]]))
    >>> scores.rank_1.item(), scores.rank_5.item(), scores.recall_at_4.item()
    (0.0, 1.0, 1.0)
    """
    n_match = is_match.sum(-1).double()
    nearest = nearest_rows(similarities, min(5, similarities.shape[1]))
    is_hit = is_match.gather(-1, nearest).double()
    nothing = n_match == 0
    return RetrievalScores(
        is_hit[:, 0].masked_fill(nothing, torch.nan),
        is_hit.amax(-1).masked_fill(nothing, torch.nan),
        average_precision(similarities, is_match),
        is_hit[:, :4].sum(-1) / n_match,
    )


def set_distance(query_regions: Tensor, reference_regions: Tensor, *, batch_size: int = 16) -> Tensor:
    """Return how far the regions of a query are, on average, from the nearest region of a reference.

    ::

        d(Q, R) = 1/|Q| Σ_{q in Q} min_{r in R} ‖q - r‖

    Parameters
    ----------
    query_regions : Tensor (n_queries, n_query_regions, n_features)
        [OTS] takes 14 regions of a query.
    reference_regions : Tensor (n_references, n_reference_regions, n_features)
        And 30 of a reference.
    batch_size : int
        Most queries and most references at once: bounds the memory at its square times the regions of both, and changes
        no result.

    Returns
    -------
    Tensor (n_queries, n_references)
        Not negative, not symmetric in Q and R. A distance near zero is known to about √eps of the norms only (3e-4 for
        unit norms in float32): squared distances come from a matrix product.

    Raises
    ------
    ValueError
        If the shapes are not so.

    Source
    ------
    [OTS] Instance retrieval: spatial search.

    Examples
    --------
    >>> query, references = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[0.0], [3.0]], [[2.0], [0.0]]])
    >>> set_distance(query, references).tolist()
    [[0.5, 0.0]]
    """
    if query_regions.dim() != 3 or reference_regions.dim() != 3:
        raise ValueError(
            "regions must have shape (n, n_regions, n_features), got "
            f"{tuple(query_regions.shape)} and {tuple(reference_regions.shape)}"
        )
    check_same_width("query_regions", query_regions, reference_regions.shape[-1])
    blocks = [
        [_block_distance(some, others) for others in torch.split(widened(reference_regions), batch_size)]
        for some in torch.split(widened(query_regions), batch_size)
    ]
    return torch.cat([torch.cat(row, dim=1) for row in blocks])


def _block_distance(query_regions: Tensor, reference_regions: Tensor) -> Tensor:
    distances = torch.cdist(
        query_regions.flatten(0, 1), reference_regions.flatten(0, 1), compute_mode="use_mm_for_euclid_dist"
    )
    return distances.view(*query_regions.shape[:2], *reference_regions.shape[:2]).amin(-1).mean(1)


def _check_labelled(what: str, features: Tensor, labels: Tensor) -> None:
    if labels.shape != (len(features),):
        raise ValueError(f"{what} labels must have shape ({len(features)},), got {tuple(labels.shape)}")
