"""Training batches: the views of a batch, the stream that yields them, and the order of the images, by step number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

__all__ = ["ImageOrder", "Stream", "ViewBatch"]

# Images of later batches that may replace one that cannot be read.
_N_SUBSTITUTES = 32


class ViewBatch(NamedTuple):
    """Several views of each of b images, or of whatever a backbone takes.

    Attributes
    ----------
    teacher : Tensor (n_teacher_views, b, ...)
        Global views that the teacher sees.
    student : Tensor (n_global_views, b, ...)
        Global views that the student sees; of DINO's kin these are the teacher's, of Mugs others.
    local : Tensor (n_local_views, b, ...) or None
        Smaller views, for the student alone.
    is_weak : Tensor (b,), bool
        Whether the student's global views were made without strong augmentation: Mugs remembers these alone.
    """

    teacher: Tensor
    student: Tensor
    local: Tensor | None
    is_weak: Tensor


# From a step's number to the batches from that step on. Batch i depends on i and the stream's own seed alone, so that a
# run that is resumed sees what one that was not interrupted sees. With several processes each gets its part of a batch.
Stream: TypeAlias = Callable[[int], Iterator[ViewBatch]]


class ImageOrder:
    """The images in their order: a permutation for each epoch, cut into batches.

    Parameters
    ----------
    n_images : int
    n_joint : int
        Images of a batch, of all processes together; at most ``n_images``.
    seed : int
        Not negative.

    Examples
    --------
    >>> order = ImageOrder(n_images=7, n_joint=3, seed=0)
    >>> order.place(5)
    (2, 3)
    >>> sorted(order.permutation(2))
    [0, 1, 2, 3, 4, 5, 6]
    """

    def __init__(self, n_images: int, n_joint: int, seed: int) -> None:
        self.n_images, self.n_joint, self.seed = n_images, n_joint, seed
        self._epoch, self._permutation = -1, list[int]()

    def place(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step, and where its batch starts in the epoch's permutation."""
        epoch, batch = divmod(step, self.n_images // self.n_joint)
        return epoch, batch * self.n_joint

    def permutation(self, epoch: int) -> list[int]:
        """Return an epoch's permutation, kept until another is asked for."""
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(_hashed(self.seed, 0, epoch))
            self._epoch, self._permutation = epoch, torch.randperm(self.n_images, generator=generator).tolist()
        return self._permutation

    def view_seed(self, epoch: int, position: int) -> int:
        """Return the seed of the views of the image at a position, which is that image's own in each epoch."""
        return _hashed(self.seed, 1, epoch, self.permutation(epoch)[position])

    def candidates(self, epoch: int, position: int) -> Iterator[int]:
        """Yield the image at a position, then its possible replacements: from the next batch on."""
        permutation = self.permutation(epoch)
        yield permutation[position]
        for behind in range(self.n_joint, self.n_joint + _N_SUBSTITUTES):
            yield permutation[(position + behind) % self.n_images]


def _hashed(seed: int, *path: int) -> int:
    """Return the seed of one purpose, derived from the run's seed."""
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1, np.uint64)[0])
