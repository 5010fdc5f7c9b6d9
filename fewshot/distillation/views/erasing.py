"""Rectangles of noise in views: which bytes cannot hold, so that they are kept beside the bytes."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Erased", "concatenated", "draw_erased", "in_batch", "nothing_erased"]

_PROBABILITY = 0.25


class Erased(NamedTuple):
    """Pixels of views that noise replaces.

    Attributes
    ----------
    where : Tensor (n,), int64
        Places in the flattened views.
    noise : Tensor (n,), float32
        Standard normal, in units of the range [0, 1] of pixels.
    """

    where: Tensor
    noise: Tensor


def nothing_erased() -> Erased:
    """Return that no pixel is erased."""
    return Erased(torch.empty(0, dtype=torch.int64), torch.empty(0))


def draw_erased(size: int) -> Erased:
    """Draw what timm's eraser does to a view (3, size, size): in a quarter of views, noise in a rectangle.

    It has between 2 and 33 % of the area. The eraser is shown an empty view.

    Source
    ------
    [MUGS] released code: DeiT's settings.
    """
    if random.random() >= _PROBABILITY:
        return nothing_erased()
    flat = _eraser()(torch.full((3, size, size), torch.nan)).flatten()
    where = flat.isfinite().nonzero().squeeze(1)
    return Erased(where, flat[where])


@functools.cache
def _eraser() -> Callable[[Tensor], Tensor]:
    from timm.data.random_erasing import RandomErasing

    eraser: Callable[[Tensor], Tensor] = RandomErasing(1.0, mode="pixel", device="cpu")
    return eraser


def concatenated(erased: list[Erased]) -> Erased:
    """Return all of it as one."""
    if not erased:
        return nothing_erased()
    return Erased(torch.cat([one.where for one in erased]), torch.cat([one.noise for one in erased]))


def in_batch(erased: list[Erased], views: list[Tensor]) -> Erased:
    """Move places in the views (v, 1, ...) of single images to their batch (v, b, ...)."""
    if not views:
        return nothing_erased()
    where, noise = concatenated(erased)
    counts = torch.tensor([len(one.where) for one in erased])
    rows = torch.arange(len(erased)).repeat_interleave(counts)
    view_size = views[0][0].numel()
    view, pixel = where // view_size, where % view_size
    return Erased((view * len(erased) + rows) * view_size + pixel, noise)
