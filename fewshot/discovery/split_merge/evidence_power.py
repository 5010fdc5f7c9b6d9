r"""The power η of the tempered likelihood: the weight of one item, chosen on held-out known classes.

At the right power the number of components does not depend on whether a class is labelled: held out, it is found once.
A higher power finds it in pieces, a lower one not at all. With halves of the known classes held out in turn,

    s(η) = mean over held-out halves of  [ K(η; half of the known classes held out) - K(η; none held out) ] / n_held_out

rises through 0 at the power sought. Both counts are of the same pool in the same space, which is fitted to the labels
that are kept alone, so that a held-out class is as new to it as an unknown one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.space import whiten_within
from fewshot.discovery.split_merge.evidence import TwoCovariance
from fewshot.discovery.split_merge.search import discover_components

# A surplus below this counts as zero.
_ONCE = 0.03

__all__ = ["HeldOutClasses", "PowerSearch", "find_power", "held_out_classes", "surplus", "two_covariance"]


class HeldOutClasses(NamedTuple):
    """A pool some of whose known classes are held out.

    Attributes
    ----------
    features : Tensor (n, n_dims)
        In the space of the classes that are kept.
    evidence : TwoCovariance
        The model of that space, at power 1.
    labels : Tensor (n,), int64
        The classes that are kept, numbered from 0, or -1.
    all_labels : Tensor (n,), int64
        All known classes; those that are kept come first, with the same numbers.
    n_kept, n_known : int
    """

    features: Tensor
    evidence: TwoCovariance
    labels: Tensor
    all_labels: Tensor
    n_kept: int
    n_known: int


class PowerSearch(NamedTuple):
    """The power of the likelihood and the search that found it.

    Attributes
    ----------
    power : float
    curve : list of (float, float)
        The powers tried, in order, and the surplus s there: components too many per held-out class.
    """

    power: float
    curve: list[tuple[float, float]]


def two_covariance(variances: Tensor, power: float = 1.0) -> TwoCovariance:
    """Build the two-covariance model of a whitened space from the variances of all rows."""
    return TwoCovariance(torch.zeros_like(variances), (variances - 1).clamp(min=0), power)


def held_out_classes(
    projected: Tensor, labels: Tensor, n_known: int, *, n_repeats: int, generator: torch.Generator
) -> list[HeldOutClasses]:
    """Hold out each half of the known classes in turn, for ``n_repeats`` random halvings."""
    pools = []
    for _ in range(n_repeats):
        order = torch.randperm(n_known, generator=generator, device=generator.device).to(labels.device)
        pools += [_hold_out(projected, labels, order.roll(shift), n_known // 2) for shift in (0, n_known // 2)]
    return pools


def _hold_out(projected: Tensor, labels: Tensor, order: Tensor, n_held_out: int) -> HeldOutClasses:
    """Hold out the classes that are last in ``order``."""
    n_known, n_kept = len(order), len(order) - n_held_out
    place = torch.full((n_known + 1,), -1, device=labels.device)
    place[order] = torch.arange(n_known, device=labels.device)
    all_labels = place[labels]
    kept = torch.where(all_labels < n_kept, all_labels, -1)
    basis, variances = whiten_within(projected, kept, n_kept)
    return HeldOutClasses(
        projected @ basis.to(projected.dtype), two_covariance(variances), kept, all_labels, n_kept, n_known
    )


def surplus(pool: HeldOutClasses, power: float, *, concentration: float = 1.0) -> float:
    """Count the surplus components per held-out class: s(η) of one pool."""
    evidence = pool.evidence._replace(power=power)
    counts = [
        discover_components(pool.features, labels, n_known, evidence, concentration=concentration).n_components
        for labels, n_known in ((pool.labels, pool.n_kept), (pool.all_labels, pool.n_known))
    ]
    return (counts[0] - counts[1]) / (pool.n_known - pool.n_kept)


def find_power(
    projected: Tensor,
    labels: Tensor,
    n_known: int,
    *,
    generator: torch.Generator,
    n_repeats: int | None = None,
    concentration: float = 1.0,
    guess: float = 0.4,
    least: float = 0.02,
    n_bisections: int = 2,
    progress: Callable[[int], None] | None = None,
) -> PowerSearch:
    """Find the power at which held-out classes are found once: bracketed by factors of two, then bisected.

    Parameters
    ----------
    projected : Tensor (n, n_dims)
        Centered rows of the pool, see `fewshot.discovery.space.principal_space`.
    labels : Tensor (n,), int64
        In [0, n_known), or -1.
    n_known : int
        At least 2.
    generator : torch.Generator
        Draws the halves.
    n_repeats : int, optional
        Pairs of halves. Default: as many as hold out 50 classes, three at most.
    concentration : float
    guess : float
        The first power tried, default 0.4. A power is the answer where s is within 0.03 of 0.
    least : float
        The lowest power, default 0.02; the highest is 1.
    n_bisections : int
        Of log η between a power with too many components and one with too few, default 2.
    progress : callable, optional
        Called with the number of powers tried.

    Returns
    -------
    PowerSearch
        At a bound where no power between the bounds gives too many, or too few.

    Notes
    -----
    Ours. Tried and rejected: empirical Bayes, and the accuracy, Rand index and pairs of held-out classes, all of
    which prefer too few classes.
    """
    repeats = min(3, math.ceil(50 / n_known)) if n_repeats is None else n_repeats
    pools = held_out_classes(projected, labels, n_known, n_repeats=repeats, generator=generator)
    curve: list[tuple[float, float]] = []

    def mean_surplus(log_power: float) -> float:
        values = [surplus(pool, math.exp(log_power), concentration=concentration) for pool in pools]
        curve.append((math.exp(log_power), sum(values) / len(values)))
        if progress is not None:
            progress(len(curve))
        return curve[-1][1]

    bracket = _bracketed(mean_surplus, math.log(guess), math.log(least))
    if bracket.is_final:
        return PowerSearch(math.exp(bracket.last), curve)
    low, high = sorted((bracket.before, bracket.last))
    for _ in range(n_bisections):
        middle = (low + high) / 2
        value = mean_surplus(middle)
        if abs(value) <= _ONCE:
            return PowerSearch(math.exp(middle), curve)
        low, high = (low, middle) if value > 0 else (middle, high)
    return PowerSearch(_crossing(curve, (low + high) / 2), curve)


class _Bracket(NamedTuple):
    """The last two values of log η that were tried, and whether the last one is the answer."""

    before: float
    last: float
    is_final: bool


def _bracketed(mean_surplus: Callable[[float], float], guess: float, least: float) -> _Bracket:
    """Halve or double η from a guess until the surplus changes its sign, is zero, or η is at its bound."""
    before = last = guess
    value = mean_surplus(last)
    is_high, end = value > 0, least if value > 0 else 0.0
    while abs(value) > _ONCE and (value > 0) == is_high and last != end:
        before = last
        last = max(last - math.log(2), end) if is_high else min(last + math.log(2), end)
        value = mean_surplus(last)
    return _Bracket(before, last, is_final=abs(value) <= _ONCE or (value > 0) == is_high)


def _crossing(curve: list[tuple[float, float]], guess: float) -> float:
    """Fit a line to the four powers nearest to a guess of log η and return its zero crossing."""
    near = sorted(curve, key=lambda point: abs(math.log(point[0]) - guess))[:4]
    logs, values = torch.tensor([(math.log(power), value) for power, value in near], dtype=torch.float64).T
    slope = ((logs - logs.mean()) * values).sum() / (logs - logs.mean()).square().sum()
    if not slope > 0:
        return math.exp(guess)
    crossing = float(logs.mean() - values.mean() / slope)
    return math.exp(min(max(crossing, float(logs.min())), float(logs.max())))
