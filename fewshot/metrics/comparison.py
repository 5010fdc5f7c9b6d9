"""Comparison of methods: the best result of a cell, and the results that do not differ from it significantly.

A cell is one feature set, one protocol and one list of episodes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from torch import Tensor

from fewshot.metrics.classification import Interval, mean_interval

__all__ = ["Scored", "Standing", "behind_best", "standings"]


class Standing(NamedTuple):
    """Difference between a result and the best of its cell.

    Attributes
    ----------
    mean : float
        Accuracy of the best minus that of the result; not negative, 0 for the best itself.
    half_width : float
        Of the 95 % interval of that difference.
    is_paired : bool
        Whether the interval is of the differences episode by episode, in which the difficulty of an episode cancels;
        otherwise it is that of two independent means, which is wider.
    """

    mean: float
    half_width: float
    is_paired: bool

    @property
    def is_tie(self) -> bool:
        """Whether the interval contains zero: the result does not differ from the best significantly.

        Examples
        --------
        >>> Standing(0.01, 0.02, True).is_tie, Standing(0.03, 0.02, True).is_tie
        (True, False)
        """
        return not self.mean > self.half_width


class Scored(NamedTuple):
    """A result to compare with others of its cell.

    Attributes
    ----------
    interval : Interval
        Mean accuracy and the half-width of its 95 % interval.
    run : hashable
        Identifies the run; the standing of its results is against the best of the same run.
    standing : Standing or None
        Behind the best of its run.
    accuracy : Tensor (n_episodes,) or None
        Per episode, where it was kept: results of several runs can then be paired.
    """

    interval: Interval
    run: Hashable = None
    standing: Standing | None = None
    accuracy: Tensor | None = None


def behind_best(accuracies: Sequence[Tensor]) -> list[Standing]:
    """Compute the difference of each method to the best of those that ran on the same episodes.

    The best has the highest mean (the first of equals); the difference is best minus own, episode by episode.

    Parameters
    ----------
    accuracies : sequence of Tensor (n_episodes,)
        One tensor per method, the episodes in the same order.

    Returns
    -------
    list of Standing
        In the order of the methods, all paired.

    Notes
    -----
    The best is selected on the same episodes that it is then compared on, so that among many equal methods the worst
    are called behind more often than one time in twenty: the verdict "behind" is a little less certain than the
    interval says.

    Examples
    --------
    >>> import torch
    >>> better, worse = torch.tensor([0.5, 0.7, 0.9]), torch.tensor([0.4, 0.6, 0.8])
    >>> [(round(standing.mean, 6), standing.is_tie) for standing in behind_best([worse, better])]
    [(0.1, False), (0.0, True)]
    """
    best = accuracies[_first_highest([float(values.double().mean()) for values in accuracies])]
    return [Standing(*mean_interval(best.double() - values.double()), is_paired=True) for values in accuracies]


def standings(results: Sequence[Scored]) -> list[Standing]:
    r"""Compute the difference of each result to the best of several runs on the same episodes.

    A result of the same run as the best keeps its paired standing; one of another run is paired where both kept their
    accuracies per episode. Otherwise, with means :math:`m` and half-widths :math:`h`, the difference is

    .. math:: m_b - m \pm \sqrt{h_b^2 + h^2}.

    Parameters
    ----------
    results : sequence of Scored
        All of one cell.

    Returns
    -------
    list of Standing
        In the order of the results.

    Examples
    --------
    >>> one, other = Scored(Interval(0.80, 0.03), run="a"), Scored(Interval(0.85, 0.04), run="b")
    >>> [round(value, 6) for value in standings([one, other])[0][:2]], standings([one, other])[0].is_paired
    ([0.05, 0.05], False)
    """
    best = results[_first_highest([result.interval.mean for result in results])]
    return [_standing(result, best) for result in results]


def _first_highest(means: Sequence[float]) -> int:
    return max(range(len(means)), key=lambda place: means[place])


def _standing(result: Scored, best: Scored) -> Standing:
    if result.accuracy is not None and best.accuracy is not None:
        return Standing(*mean_interval(best.accuracy.double() - result.accuracy.double()), is_paired=True)
    if result.run == best.run and result.standing is not None:
        return result.standing
    if result is best:
        return Standing(0.0, 0.0, is_paired=True)
    (mean, half_width), (own_mean, own_half_width) = best.interval, result.interval
    return Standing(mean - own_mean, (half_width**2 + own_half_width**2) ** 0.5, is_paired=False)
