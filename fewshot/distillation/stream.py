"""What a trainer is fed: the views of a batch of images, in an order that a step's number decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from torch import Tensor

__all__ = ["Stream", "ViewBatch"]


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
