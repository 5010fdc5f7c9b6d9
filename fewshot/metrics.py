"""Accuracy and its interval."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Interval", "episode_accuracy", "mean_interval"]


class Interval(NamedTuple):
    """A mean and the half-width of its 95 % confidence interval (normal approximation)."""

    mean: float
    half_width: float


def episode_accuracy(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Return the share of right answers in each episode.

    Parameters
    ----------
    log_probs : Tensor (..., n_queries, n_way)
    labels : Tensor (..., n_queries), int64
        -1 marks padding, which does not count.

    Returns
    -------
    Tensor (...)
        In [0, 1], over all ways, whether they have queries or not.

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
    """Return mean and 1.96 · standard deviation / √n (n - 1 in the deviation) of one value per episode, shape (n,).

    Examples
    --------
    >>> import torch
    >>> [round(number, 4) for number in mean_interval(torch.tensor([0.0, 1.0, 1.0, 1.0]))]
    [0.75, 0.49]
    """
    values = values.double()
    half_width = 1.96 * float(values.std()) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return Interval(float(values.mean()), half_width)
