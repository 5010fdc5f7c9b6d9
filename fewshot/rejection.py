r"""Open-set rejection: a nearest-class distance and its conformal p-value, calibrated leave-one-out on the support.

The non-conformity score of an item is its squared distance to the nearest class mean, in units of its expectation,

    s(x) = min_k ‖x - m_k‖² / (1 + 1/n_k),     features scaled to unit length, m_k the mean of the n_k items of class k.

An item of class k that is not among the n_k has E ‖x - m_k‖² = (1 + 1/n_k) tr Σ_k, whatever n_k is; so the
leave-one-out score of a support item, against the mean of the other n_k - 1 items of its class, has the expectation of
a query's. The support therefore calibrates: the p-value of a query is
(1 + #{calibration scores s_i >= s}) / (n_calibration + 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.prototypes import class_counts, class_means, l2_normalize, one_hot

__all__ = ["calibration_scores", "is_rejected", "known_p_values", "nonconformity", "smallest_share"]


def nonconformity(query: Tensor, support: Tensor, support_labels: Tensor, n_way: int) -> Tensor:
    """Compute the non-conformity score s(x) = min_k ‖x - m_k‖² / (1 + 1/n_k) of queries, at unit length.

    Parameters
    ----------
    query : Tensor (..., n_queries, n_features)
    support : Tensor (..., n_support, n_features)
    support_labels : Tensor (..., n_support), int64
        In [0, n_way), each at least once.
    n_way : int

    Returns
    -------
    Tensor (..., n_queries)
        In [0, 4]. A query's value does not depend on other queries.

    Notes
    -----
    Why unit length: AUROC of known against unknown queries, 5 classes of 5 support items, 10
    queries of each and 10 of each of 5 other classes, 400 episodes, all intervals below ±0.01:

    ==================================  ======  =====  =============  ==========
    features                            MoCo    CUB    Tiny-ImageNet  Omniglot
    ==================================  ======  =====  =============  ==========
    unscaled                            0.940   0.786  0.779          0.958
    unit length                         0.940   0.889  0.857          0.990
    support mean removed, then unit     0.919   0.874  0.866          0.983
    unit length, means too (cosines)    0.948   0.886  0.856          0.990
    ==================================  ======  =====  =============  ==========

    At unit length, p <= 0.05 rejected 3.1, 4.2, 3.4 and 3.6 % of the known queries, and 37, 43, 29 and 85 % of the
    unknown ones.

    Examples
    --------
    >>> support, labels = torch.eye(2), torch.tensor([0, 1])
    >>> nonconformity(torch.tensor([[5.0, 0.0], [-1.0, 0.0]]), support, labels, 2).tolist()
    [0.0, 1.0]
    """
    query, support = _centered(query, support)
    return _class_scores(query, support, support_labels, n_way).amin(-1)


def calibration_scores(support: Tensor, support_labels: Tensor, n_way: int) -> Tensor:
    """Compute leave-one-out scores of support items: each against its own class without itself, and the other classes.

    s_i = min( ‖x_i - m_y‖² n_y / (n_y - 1), min_{k != y} ‖x_i - m_k‖² / (1 + 1/n_k) ), in closed form.

    Parameters
    ----------
    support : Tensor (..., n_support, n_features)
    support_labels : Tensor (..., n_support), int64
        In [0, n_way), each at least once.
    n_way : int

    Returns
    -------
    Tensor (..., n_support)
        Minus infinity for the only item of its class, which does not calibrate.

    Examples
    --------
    >>> support = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> [round(score, 4) for score in calibration_scores(support, torch.tensor([0, 0, 1]), 2).tolist()]
    [1.0, 1.0, -inf]
    """
    (support,) = _centered(support)
    scores = _class_scores(support, support, support_labels, n_way)
    counts = class_counts(support_labels, n_way, support.dtype)
    own = one_hot(support_labels, n_way, support.dtype) > 0
    left_out = scores * ((1 + 1 / counts) * counts / (counts - 1).clamp(min=1))[..., None, :]
    is_alone = (own & (counts < 2)[..., None, :]).any(-1)
    return torch.where(own, left_out, scores).amin(-1).masked_fill(is_alone, -torch.inf)


def known_p_values(scores: Tensor, calibration: Tensor) -> Tensor:
    """Compute conformal p-values of the hypothesis "known class": p = (1 + #{s_i >= s}) / (n_calibration + 1).

    Parameters
    ----------
    scores : Tensor (..., n_queries)
        Of `nonconformity`.
    calibration : Tensor (..., n_support)
        Of `calibration_scores`; minus infinity is left out.

    Returns
    -------
    Tensor (..., n_queries)
        In (0, 1]: for a query of a known class, p <= a with a probability of about a. 1 without calibration scores.

    Notes
    -----
    If calibration items and query were exchangeable the probability would be at most a, by conformal prediction. They
    nearly are: the items share class means with one another. Of the bundled digits, six of each labelled at random,
    4.7 % of the others have p <= 0.05 (2 to 15 of each: 2.7 to 6.3 %). The guarantee fails where labelled items and
    queries are distributed differently: with the first 60 digits labelled, which other people wrote, it is 18 %.

    Source
    ------
    Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", Springer 2005, chapter 2.

    Examples
    --------
    >>> known_p_values(torch.tensor([0.0, 2.5, 9.0]), torch.tensor([1.0, 2.0, 3.0, -torch.inf])).tolist()
    [1.0, 0.5, 0.25]
    """
    ordered = calibration.sort(-1).values
    n_below = torch.searchsorted(ordered.contiguous(), scores.contiguous())
    n_calibration = (calibration > -torch.inf).sum(-1, keepdim=True)
    n_above = (calibration.shape[-1] - n_below).to(scores.dtype)
    return ((1 + n_above) / (1 + n_calibration)).clamp(max=1)


def smallest_share(calibration: Tensor) -> Tensor:
    """Compute the smallest possible p-value, 1 / (n_calibration + 1), shape (...).

    Examples
    --------
    >>> float(smallest_share(torch.tensor([1.0, 2.0, 3.0, -torch.inf])))
    0.25
    """
    return 1 / (1 + (calibration > -torch.inf).sum(-1))


def is_rejected(p_values: Tensor, share: float) -> Tensor:
    """Reject the queries with p <= ``share``, of any shape.

    Examples
    --------
    >>> is_rejected(torch.tensor([1 / 20, 2 / 20]), 0.05).tolist()
    [True, False]
    """
    return p_values <= share


def _centered(*features: Tensor) -> list[Tensor]:
    """Scale items to unit length and subtract the mean of the last ones, which avoids cancellation in the distances."""
    units = [l2_normalize(items) for items in features]
    center = units[-1].mean(-2, keepdim=True)
    return [items - center for items in units]


def _class_scores(items: Tensor, support: Tensor, support_labels: Tensor, n_way: int) -> Tensor:
    """Return ‖x - m_k‖² / (1 + 1/n_k), shape (..., n_items, n_way)."""
    means = class_means(support, support_labels, n_way)
    counts = class_counts(support_labels, n_way, support.dtype)
    squared_norms = items.square().sum(-1, keepdim=True) + means.square().sum(-1)[..., None, :]
    return (squared_norms - 2 * items @ means.mT).clamp(min=0) * (counts / (1 + counts))[..., None, :]
