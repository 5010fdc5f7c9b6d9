r"""How much an item counts: the power of the evidence, found by hiding known classes and counting them.

At the right power it makes no difference to the number of components whether a class is labelled or not: hidden, it is
found once. Too high a power finds it in pieces, too low a one not at all. So, for halves of the known classes hidden in
turn,

    s(η) = mean over hidings of  [ K(η; half of the known classes hidden) - K(η; none hidden) ] / n_hidden

rises through 0 at the power sought. Both counts are of the same pool in the same space, which knows only the classes
not hidden, so that a hidden class is as new to it as an unknown one is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.space import round_within
from fewshot.discovery.split_merge.evidence import TwoCovariance
from fewshot.discovery.split_merge.search import discover_components

# So few components too many or too few per hidden class are none.
_ONCE = 0.03

__all__ = ["Hiding", "PowerSearch", "find_power", "hidings", "surplus", "two_covariance"]


class Hiding(NamedTuple):
    """A pool of which some known classes are hidden.

    Attributes
    ----------
    features : Tensor (n, n_dims)
        In the space of the classes that are not hidden.
    evidence : TwoCovariance
        Of that space, at power 1.
    labels : Tensor (n,), int64
        Those not hidden, numbered from 0, or -1.
    all_labels : Tensor (n,), int64
        None hidden; those not hidden come first, with the same numbers.
    n_kept, n_known : int
    """

    features: Tensor
    evidence: TwoCovariance
    labels: Tensor
    all_labels: Tensor
    n_kept: int
    n_known: int


class PowerSearch(NamedTuple):
    """The power and how it was found.

    Attributes
    ----------
    power : float
    curve : list of (float, float)
        The powers tried, in order, and the surplus s there: components found too many per hidden class.
    """

    power: float
    curve: list[tuple[float, float]]


def two_covariance(variances: Tensor, power: float = 1.0) -> TwoCovariance:
    """Return the model of a space whose within-class covariance is the identity, from the variances of all rows."""
    return TwoCovariance(torch.zeros_like(variances), (variances - 1).clamp(min=0), power)


def hidings(
    projected: Tensor, labels: Tensor, n_known: int, *, n_repeats: int, generator: torch.Generator
) -> list[Hiding]:
    """Hide each half of the known classes in turn, ``n_repeats`` times by other halves."""
    found = []
    for _ in range(n_repeats):
        order = torch.randperm(n_known, generator=generator, device=generator.device).to(labels.device)
        found += [_hide(projected, labels, order.roll(shift), n_known // 2) for shift in (0, n_known // 2)]
    return found


def _hide(projected: Tensor, labels: Tensor, order: Tensor, n_hidden: int) -> Hiding:
    """Hide the classes that are last in ``order``."""
    n_known, n_kept = len(order), len(order) - n_hidden
    place = torch.full((n_known + 1,), -1, device=labels.device)
    place[order] = torch.arange(n_known, device=labels.device)
    all_labels = place[labels]
    kept = torch.where(all_labels < n_kept, all_labels, -1)
    basis, variances = round_within(projected, kept, n_kept)
    return Hiding(projected @ basis.to(projected.dtype), two_covariance(variances), kept, all_labels, n_kept, n_known)


def surplus(hiding: Hiding, power: float, *, concentration: float = 1.0) -> float:
    """Return how many components too many there are per hidden class, s(η) of one hiding."""
    evidence = hiding.evidence._replace(power=power)
    counts = [
        discover_components(hiding.features, labels, n_known, evidence, concentration=concentration).n_components
        for labels, n_known in ((hiding.labels, hiding.n_kept), (hiding.all_labels, hiding.n_known))
    ]
    return (counts[0] - counts[1]) / (hiding.n_known - hiding.n_kept)


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
    """Find the power at which hidden classes are found once: from a guess by factors of two, then by bisection.

    Parameters
    ----------
    projected : Tensor (n, n_dims)
        Centred rows of the pool, see `fewshot.discovery.space.principal_space`.
    labels : Tensor (n,), int64
        In [0, n_known), or -1.
    n_known : int
        At least 2.
    generator : torch.Generator
        Draws the halves.
    n_repeats : int, optional
        Pairs of halves. Default: as many as hide 50 classes, three at most.
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
    Ours. What was tried and left: empirical Bayes, and the accuracy, Rand index and pairs of hidden classes, all of
    which ask for too few classes.
    """
    repeats = min(3, math.ceil(50 / n_known)) if n_repeats is None else n_repeats
    hidden = hidings(projected, labels, n_known, n_repeats=repeats, generator=generator)
    curve: list[tuple[float, float]] = []

    def mean_surplus(log_power: float) -> float:
        values = [surplus(hiding, math.exp(log_power), concentration=concentration) for hiding in hidden]
        curve.append((math.exp(log_power), sum(values) / len(values)))
        if progress is not None:
            progress(len(curve))
        return curve[-1][1]

    log_power = before = math.log(guess)
    value = mean_surplus(log_power)
    is_high, end = value > 0, math.log(least) if value > 0 else 0.0
    while abs(value) > _ONCE and (value > 0) == is_high and log_power != end:
        before = log_power
        log_power = max(log_power - math.log(2), end) if is_high else min(log_power + math.log(2), end)
        value = mean_surplus(log_power)
    low, high = sorted((before, log_power))
    if abs(value) <= _ONCE or (value > 0) == is_high:
        return PowerSearch(math.exp(log_power), curve)
    for _ in range(n_bisections):
        middle = (low + high) / 2
        value = mean_surplus(middle)
        if abs(value) <= _ONCE:
            return PowerSearch(math.exp(middle), curve)
        low, high = (low, middle) if value > 0 else (middle, high)
    return PowerSearch(_crossing(curve, (low + high) / 2), curve)


def _crossing(curve: list[tuple[float, float]], guess: float) -> float:
    """Return where a line through the four powers nearest to a guess of log η crosses 0, less noisy than any one."""
    near = sorted(curve, key=lambda point: abs(math.log(point[0]) - guess))[:4]
    logs, values = torch.tensor([(math.log(power), value) for power, value in near], dtype=torch.float64).T
    slope = ((logs - logs.mean()) * values).sum() / (logs - logs.mean()).square().sum()
    if not slope > 0:
        return math.exp(guess)
    crossing = float(logs.mean() - values.mean() / slope)
    return math.exp(min(max(crossing, float(logs.min())), float(logs.max())))
