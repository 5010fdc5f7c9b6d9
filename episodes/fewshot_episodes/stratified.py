"""A split that gives every class its share of both sides."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot_episodes.draws import distinct_indices
from fewshot_episodes.pool import class_pool

__all__ = ["stratified_split"]


def stratified_split(labels: Tensor, fraction: float, *, generator: torch.Generator) -> Tensor:
    """Hold out a random share of the rows of each class.

    Parameters
    ----------
    labels : Tensor (n,), integer
    fraction : float
        Share to hold out, in (0, 1): of n rows of a class, n · fraction rounded (a half to the even number), but at
        least one and never all. A class with one row keeps it.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor (n,), bool
        True where a row is held out; on the device of ``labels``.

    Raises
    ------
    ValueError
        If the fraction is out of range, or no class has two rows.

    Examples
    --------
    >>> held_out = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), 0.5, generator=torch.Generator().manual_seed(0))
    >>> held_out[:4].sum().item(), held_out[4:].sum().item()
    (2, 1)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
    pool = class_pool(labels)
    counts = torch.minimum((pool.sizes * fraction).round().long().clamp(min=1), pool.sizes - 1)
    if not bool(counts.any()):
        raise ValueError("no class has two rows, one for each side of the split: give a test set of its own")
    drawn = distinct_indices(counts, pool.sizes, generator=generator)
    rows = pool.items[(pool.starts[:, None] + drawn)[drawn >= 0]]
    return torch.zeros(labels.shape, dtype=torch.bool).index_fill(0, rows, True).to(labels.device)
