"""Answer one query set with a method, in bounded memory."""

from __future__ import annotations

import torch
from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_positive
from fewshot.episodic.method import Method

__all__ = ["MAX_QUERIES", "answer_queries", "check_probabilities"]

# Queries that are answered together: enough for any class share, and an n x n matrix of them takes 64 MiB.
MAX_QUERIES = 4096


@torch.inference_mode()
def answer_queries(
    method: Method,
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    n_way: int,
    *,
    max_queries: int = MAX_QUERIES,
) -> Tensor:
    """Return log-probabilities of the queries of one problem.

    Parameters
    ----------
    method : Method
    support : Tensor (n_support, n_features)
    support_labels : Tensor (n_support,), int64
        In [0, n_way), each at least once.
    query : Tensor (n_queries, n_features)
        At least one.
    n_way : int
    max_queries : int
        More queries than this are dealt out in turn to equal parts, and each part is one query set: the memory of a
        transductive method may grow with the square of their number. Changes no answer of an inductive one.

    Returns
    -------
    Tensor (n_queries, n_way)
        Each row a log-probability, in the dtype of the query.

    Raises
    ------
    ValueError
        If ``max_queries`` is not positive, the tensors make no episode, or an answer is no number.

    Notes
    -----
    Parts are dealt out in turn (row i to part i mod n_parts), so that each has the class shares of the whole even where
    queries are sorted.

    Examples
    --------
    >>> from fewshot.episodic.nearest_prototype import NearestPrototype
    >>> support, labels = torch.tensor([[0.0], [4.0]]), torch.tensor([0, 1])
    >>> answer_queries(NearestPrototype(), support, labels, torch.tensor([[1.0], [5.0], [0.0]]), 2).argmax(-1).tolist()
    [0, 1, 0]
    """
    check_positive("max_queries", max_queries)
    n_parts = -(-len(query) // max_queries) or 1
    answers = query.new_empty((len(query), n_way))
    for part in range(n_parts):
        episode = Episode(
            support=support,
            support_labels=support_labels,
            query=query[part::n_parts],
            class_ids=torch.arange(n_way, device=query.device),
        )
        answers[part::n_parts] = method(episode)
    check_probabilities(answers, query)
    return answers


def check_probabilities(log_probs: Tensor, query: Tensor) -> None:
    """Refuse log-probabilities (..., n_way) that are no numbers: squares and products of very large features overflow.

    Raises
    ------
    ValueError
        If one is NaN.
    """
    if log_probs.is_meta or not bool(log_probs.isnan().any()):
        return
    is_lost = log_probs.isnan().any(-1)
    raise ValueError(
        f"the method has no probabilities for {int(is_lost.sum())} of {is_lost.numel()} queries: features as large as "
        f"{float(query.abs().max()):.1e} overflow in {query.dtype}: divide all features by one number, or give them as "
        "float64"
    )
