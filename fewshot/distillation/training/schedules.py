"""Numbers that change from step to step: learning rate, weight decay, the teacher's momentum and temperature.

Source: [DINO] released code, which [MUGS] and [CMD] share. Steps count from 0.
"""

from __future__ import annotations

import math

__all__ = ["cosine", "linear", "warmup_cosine"]


def cosine(step: int, n_steps: int, start: float, end: float) -> float:
    """Go from ``start`` to ``end`` along half a cosine: ``end + (start - end) (1 + cos(π step / n_steps)) / 2``.

    Parameters
    ----------
    step : int
        From 0. The last one, n_steps - 1, is just short of ``end``, as in the originals; ``end`` from n_steps on.
    n_steps : int
    start, end : float

    Examples
    --------
    >>> [round(cosine(step, 4, 0.996, 1.0), 4) for step in range(5)]
    [0.996, 0.9966, 0.998, 0.9994, 1.0]
    """
    if step >= n_steps:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / n_steps)) / 2


def warmup_cosine(step: int, n_steps: int, n_warmup: int, peak: float, end: float) -> float:
    """Rise evenly from 0 to ``peak`` in the first ``n_warmup`` steps, then go to ``end`` as `cosine` in the others.

    Notes
    -----
    The first step has 0, and both the last of the warm-up and the one after it have ``peak``, as in the originals.

    Examples
    --------
    >>> [round(warmup_cosine(step, 7, 3, 1.0, 0.0), 2) for step in range(7)]
    [0.0, 0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if step < n_warmup:
        return peak * step / max(1, n_warmup - 1)
    return cosine(step - n_warmup, n_steps - n_warmup, peak, end)


def linear(step: int, n_warmup: int, start: float, end: float) -> float:
    """Go evenly from ``start`` to ``end`` in the first ``n_warmup`` steps, and stay there.

    Notes
    -----
    The originals step once an epoch: their ``step`` is the number of the epoch.

    Examples
    --------
    >>> [round(linear(step, 4, 0.04, 0.07), 2) for step in range(6)]
    [0.04, 0.05, 0.06, 0.07, 0.07, 0.07]
    """
    if step >= n_warmup:
        return end
    return start + (end - start) * step / max(1, n_warmup - 1)
