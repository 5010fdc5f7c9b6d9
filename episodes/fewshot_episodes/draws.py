"""The only random index maths: distinct draws, and the number of queries of each class."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["dirichlet_shares", "distinct_indices", "pooled_counts", "proportional_counts"]


def distinct_indices(counts: Tensor, sizes: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw a uniformly random subset of ``range(size)`` for each row, by Floyd's algorithm.

    For i = 0, 1, … let j = size - count + i and draw t uniformly from [0, j]; take t, or j if t is taken already.
    The cost is that of the subset, not of the set: nothing of length ``size`` is made or sorted.

    Parameters
    ----------
    counts : Tensor (...), int64
        Size of each subset, at most ``sizes``.
    sizes : Tensor (...), int64
        Size of each set.
    generator : torch.Generator
        Where the coins come from; the result is on its device.

    Returns
    -------
    Tensor (..., largest count), int64
        Distinct values in [0, size), in no useful order; -1 in the slots past ``count``.

    Source
    ------
    Bentley and Floyd, "Programming pearls: a sample of brilliance", CACM 30(9), 1987.
    """
    width = int(counts.max())
    slot = torch.arange(width, device=counts.device).view(-1, *[1] * counts.dim())
    top = sizes - counts + slot
    coins = torch.rand(top.shape, dtype=torch.float64, generator=generator, device=counts.device)
    taken = (coins * (top + 1)).long()
    for i in range(1, width):
        is_taken = (taken[:i] == taken[i]).any(0)
        taken[i] = torch.where(is_taken, top[i], taken[i])
    return taken.masked_fill_(slot >= counts, -1).movedim(0, -1).contiguous()


def pooled_counts(total: int, sizes: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw how many of ``total`` items, taken without replacement from the pooled ways, fall on each way.

    Parameters
    ----------
    total : int
        At most the sum of ``sizes``.
    sizes : Tensor (n_episodes, n_way), int64
        Items of each way.

    Returns
    -------
    Tensor (n_episodes, n_way), int64
        Multivariate hypergeometric: in [0, sizes], sums to ``total``.
    """
    ends = sizes.cumsum(-1)
    items = distinct_indices(torch.full_like(ends[:, -1], total), ends[:, -1], generator=generator)
    way = torch.searchsorted(ends, items, right=True)
    return torch.zeros_like(sizes).scatter_add_(-1, way, torch.ones_like(way))


def dirichlet_shares(concentration: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw class shares from a Dirichlet distribution.

    Parameters
    ----------
    concentration : Tensor (..., n_way), float64
        Positive parameters; 0 gives the way no share.

    Returns
    -------
    Tensor (..., n_way), float64
        Non-negative, sums to 1; a positive parameter gives a share of at least 1e-300, so that
        :func:`proportional_counts` can fill up such ways when the others are full.
    """
    # torch.distributions takes no generator; _standard_gamma is the function that it calls itself. Gammas of a small
    # parameter underflow, so they are made as logarithms: Gamma(a) = Gamma(a + 1) · U^(1/a).
    coins = torch.rand(concentration.shape, dtype=concentration.dtype, generator=generator, device=concentration.device)
    log_gammas = torch._standard_gamma(concentration + 1, generator=generator).log() + coins.log() / concentration
    return torch.where(concentration > 0, log_gammas.softmax(-1).clamp(min=1e-300), 0.0)


def proportional_counts(shares: Tensor, total: int, limits: Tensor) -> Tensor:
    """Round shares to whole counts that sum to ``total`` and never exceed the size of a class.

    What a full class cannot take goes to the others in proportion to their shares (water filling: count_k =
    min(limit_k, level · share_k)); the fractions are then rounded by largest remainder.

    Parameters
    ----------
    shares : Tensor (..., n_way), float64
        Non-negative, not all zero; the positive ones at least 1e-300.
    total : int
        Sum of the counts; at most the sum of the limits of the ways with a positive share.
    limits : Tensor (..., n_way), int64
        Most that each way can give.

    Returns
    -------
    Tensor (..., n_way), int64
        In [0, limits], sums to ``total``; 0 where the share is 0.

    Examples
    --------
    >>> proportional_counts(torch.tensor([0.5, 0.3, 0.2]).double(), 10, torch.tensor([4, 9, 9])).tolist()
    [4, 4, 2]
    """
    full_level, order = torch.where(shares > 0, limits / shares, torch.inf).sort(-1)
    shares_in_order, limits_in_order = shares.gather(-1, order), limits.gather(-1, order)
    filled_before = limits_in_order.cumsum(-1) - limits_in_order
    share_left = shares_in_order.flip(-1).cumsum(-1).flip(-1)
    level = (total - filled_before) / share_left
    # The level is right when the next class in order does not overflow at it.
    first = (level <= full_level).long().argmax(-1, keepdim=True)
    ideal = torch.minimum(level.gather(-1, first) * shares, limits.to(shares.dtype))
    floor = ideal.floor()
    rank = (ideal - floor).sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    missing = total - floor.sum(-1, keepdim=True)
    return floor.long() + (rank < missing).long()
