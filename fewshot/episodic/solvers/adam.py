"""Adam, on gradients that are given in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["adam"]


def adam(start: Tensor, gradient: Callable[[Tensor], Tensor], *, n_steps: int, learning_rate: float) -> Tensor:
    """Take Adam's steps with its usual constants (0.9, 0.999, 1e-8).

    m ← 0.9 m + 0.1 g,  v ← 0.999 v + 0.001 g²,  w ← w - η m̂ / (√v̂ + 1e-8), with m̂ and v̂ freed of their start at 0.

    Parameters
    ----------
    start : Tensor
        The first w; left as it is.
    gradient : callable
        w → g, of the same shape.
    n_steps : int
    learning_rate : float
        η.

    Notes
    -----
    Each number is treated on its own: nothing depends on companions, and turning the features changes the path.

    Examples
    --------
    >>> adam(torch.tensor([3.0, -2.0]), torch.Tensor.sign, n_steps=2, learning_rate=0.5)
    tensor([ 2., -1.])

    Source
    ------
    Kingma and Ba, "Adam", ICLR 2015, Algorithm 1.
    """
    w, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, 2 if start.is_meta else n_steps + 1):  # without data, one step shows what all would
        g = gradient(w)
        mean.lerp_(g, 0.1)
        square.mul_(0.999).addcmul_(g, g, value=0.001)
        spread = square.sqrt().div_(math.sqrt(1 - 0.999**step)).add_(1e-8)
        w.addcdiv_(mean, spread, value=-learning_rate / (1 - 0.9**step))
    return w
