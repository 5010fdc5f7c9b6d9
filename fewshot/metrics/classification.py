"""Accuracy and its confidence interval, accuracy by class, AUROC, FPR@95, and average precision."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.checks import check_choice

__all__ = [
    "AP_VARIANTS",
    "Interval",
    "auroc",
    "average_precision",
    "class_accuracy",
    "episode_accuracy",
    "false_positive_rate_at",
    "harmonic_mean",
    "mean_class_accuracy",
    "mean_interval",
]

AP_VARIANTS = ("hits", "all-points", "11-point")


class Interval(NamedTuple):
    """A mean and the half-width of its 95 % confidence interval (normal approximation)."""

    mean: float
    half_width: float


def episode_accuracy(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the accuracy of each episode.

    Parameters
    ----------
    log_probs : Tensor (..., n_queries, n_way)
    labels : Tensor (..., n_queries), int64
        -1 marks padding, which is not counted.

    Returns
    -------
    Tensor (...)
        In [0, 1]; the prediction is the best of all ways, with queries or not.

    Examples
    --------
    >>> import torch
    >>> episode_accuracy(torch.tensor([[0.1, 0.9], [0.7, 0.3], [0.6, 0.4]]), torch.tensor([1, 1, -1])).item()
    0.5
    """
    is_real = labels >= 0
    is_right = log_probs.mT.max(-2).indices == labels
    return is_right.sum(-1) / is_real.sum(-1)


def mean_interval(values: Tensor) -> Interval:
    """Compute the mean and 1.96 · standard deviation / √n (divisor n - 1) of one value per episode, shape (n,).

    Examples
    --------
    >>> import torch
    >>> [round(number, 4) for number in mean_interval(torch.tensor([0.0, 1.0, 1.0, 1.0]))]
    [0.75, 0.49]
    """
    values = values.double()
    half_width = 1.96 * float(values.std()) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return Interval(float(values.mean()), half_width)


def class_accuracy(predictions: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Compute the accuracy within each class.

    Parameters
    ----------
    predictions, labels : Tensor (..., n), int64
        In [0, n_classes).
    n_classes : int

    Returns
    -------
    Tensor (..., n_classes), float64
        In [0, 1]; NaN for a class without items.

    Examples
    --------
    >>> class_accuracy(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]), 3).tolist()
    [0.5, 1.0, nan]
    """
    zeros = torch.zeros((*labels.shape[:-1], n_classes), dtype=torch.float64, device=labels.device)
    n_right = zeros.scatter_add(-1, labels, (predictions == labels).double())
    return n_right / zeros.scatter_add(-1, labels, torch.ones_like(labels, dtype=torch.float64))


def mean_class_accuracy(predictions: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Compute the mean over classes of the accuracy within each: every class has the same weight, whatever its size.

    Parameters
    ----------
    predictions, labels : Tensor (..., n), int64
        In [0, n_classes).
    n_classes : int

    Returns
    -------
    Tensor (...), float64
        In [0, 1]; classes without items are left out.

    Examples
    --------
    >>> mean_class_accuracy(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]), 2).item()
    0.5
    """
    return class_accuracy(predictions, labels, n_classes).nanmean(-1)


def harmonic_mean(first: Tensor, second: Tensor) -> Tensor:
    """Compute the harmonic mean, 2 · first · second / (first + second).

    Parameters
    ----------
    first, second : Tensor (...)
        Non-negative.

    Returns
    -------
    Tensor (...)
        Between the two; 0 where both are 0, NaN where either is NaN.

    Examples
    --------
    >>> import torch
    >>> [round(value, 4) for value in harmonic_mean(torch.tensor([0.8, 0.0]), torch.tensor([0.2, 0.0])).tolist()]
    [0.32, 0.0]
    """
    total = first + second
    return torch.where(total == 0, total, 2 * first * second / total)


def auroc(scores: Tensor, is_positive: Tensor) -> Tensor:
    """Compute the area under the ROC curve: the probability that a positive scores higher than a negative.

    Parameters
    ----------
    scores : Tensor (..., n)
    is_positive : Tensor (..., n), bool

    Returns
    -------
    Tensor (...), float64
        In [0, 1]; a tie counts half; NaN without a positive or without a negative.

    Notes
    -----
    A strictly increasing map of the scores changes nothing; negated scores give one minus this.

    Source
    ------
    Hanley and McNeil, "The meaning and use of the area under a ROC curve", Radiology 143, 1982 (the rank form).

    Examples
    --------
    >>> auroc(torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, True, False, False])).item()
    0.875
    """
    scores = scores.contiguous()
    ascending = scores.sort(-1).values
    n_below, n_up_to = (torch.searchsorted(ascending, scores, right=right) for right in (False, True))
    twice_rank = (n_below + n_up_to + 1) * is_positive
    n_positive = is_positive.sum(-1)
    n_pairs = n_positive * (~is_positive).sum(-1)
    return (twice_rank.sum(-1) - n_positive * (n_positive + 1)).double() / (2 * n_pairs)


def false_positive_rate_at(scores: Tensor, is_positive: Tensor, true_positive_rate: float = 0.95) -> Tensor:
    """Compute the false positive rate at the highest threshold that reaches a true positive rate.

    Parameters
    ----------
    scores : Tensor (..., n)
        An item is predicted positive if its score is at least the threshold.
    is_positive : Tensor (..., n), bool
    true_positive_rate : float
        In (0, 1]. The share of positives to reach. Default 0.95: "FPR@95".

    Returns
    -------
    Tensor (...), float64
        In [0, 1]; NaN without a positive or without a negative.

    Raises
    ------
    ValueError
        If the rate is out of range.

    Source
    ------
    Liang et al., "Enhancing the reliability of out-of-distribution image detection in neural networks", ICLR 2018,
    Section 4 (there "FPR at 95% TPR"); without interpolation between thresholds.

    Examples
    --------
    >>> scores, is_positive = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([True, False, True, False])
    >>> [false_positive_rate_at(scores, is_positive, rate).item() for rate in (0.5, 0.51)]
    [0.0, 0.5]
    """
    if not 0 < true_positive_rate <= 1:
        raise ValueError(f"true_positive_rate must lie in (0, 1], got {true_positive_rate}")
    n_positive = is_positive.sum(-1, keepdim=True)
    n_passing = (true_positive_rate * n_positive.double()).ceil()
    # 0.07 · 100 comes out above 7: one fewer may do.
    n_passing = n_passing - ((n_passing - 1) / n_positive >= true_positive_rate).double()
    positives = scores.masked_fill(~is_positive, -torch.inf).sort(-1, descending=True).values
    threshold = positives.gather(-1, n_passing.long().clamp(min=1) - 1)
    n_negative = (~is_positive).sum(-1)
    rate = ((scores >= threshold) & ~is_positive).sum(-1).double() / n_negative
    return rate.masked_fill(n_positive[..., 0] == 0, torch.nan)


def average_precision(scores: Tensor, is_positive: Tensor, variant: str = "hits") -> Tensor:
    """Compute average precision, the area under the precision-recall curve, by one of its three definitions.

    At an item of score s, precision is the share of positives among the items of score s or more, and recall the share
    of all positives found among them.

    Parameters
    ----------
    scores : Tensor (..., n)
        The higher, the earlier in the ranking. Leave out items to be ignored ("difficult" in VOC).
    is_positive : Tensor (..., n), bool
    variant : {"hits", "all-points", "11-point"}
        - ``hits``: the mean of the precisions at the positives (retrieval, scikit-learn).
        - ``all-points``: the mean at the positives of the highest precision at that recall or a higher one: the area
          under the monotone envelope (VOC from 2010 on, VISSL).
        - ``11-point``: the mean of that envelope at recalls 0, 0.1, ..., 1 (VOC 2007).

    Returns
    -------
    Tensor (...), float64
        In [0, 1]; NaN without a positive.

    Raises
    ------
    ValueError
        If the variant is unknown.

    Notes
    -----
    Items of equal score enter together, so the order of the items changes nothing. A strictly increasing map of the
    scores changes nothing.

    Source
    ------
    Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, Section 4.2 (``11-point``).

    Examples
    --------
    >>> scores, is_positive = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([True, False, False, True])
    >>> [round(average_precision(scores, is_positive, variant).item(), 4) for variant in AP_VARIANTS]
    [0.75, 0.75, 0.7727]
    """
    check_choice("variant of average precision", variant, AP_VARIANTS)
    ordered, order = scores.sort(-1, descending=True)
    is_hit = is_positive.gather(-1, order).double()
    ascending = -ordered.contiguous()
    last = torch.searchsorted(ascending, ascending, right=True) - 1
    n_found = is_hit.cumsum(-1).gather(-1, last)
    precision, n_positive = n_found / (last + 1), is_hit.sum(-1)
    if variant == "hits":
        return (precision * is_hit).sum(-1) / n_positive
    envelope = precision.flip(-1).cummax(-1).values.flip(-1)
    if variant == "all-points":
        return (envelope * is_hit).sum(-1) / n_positive
    return _eleven_points(envelope, n_found / n_positive[..., None])


def _eleven_points(envelope: Tensor, recall: Tensor) -> Tensor:
    """Average the highest precision at recalls of at least 0, 0.1, ..., 1."""
    tenths = torch.arange(11, dtype=recall.dtype, device=recall.device) / 10
    reached = recall[..., None, :] >= tenths[:, None]
    heights = torch.where(reached, envelope[..., None, :], 0.0).amax(-1)
    return heights.mean(-1).masked_fill(recall[..., -1].isnan(), torch.nan)
