"""The teacher: a running average of the student, and the running mean of its logits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fewshot.distributed import mean_over_processes

__all__ = ["Center", "copy_into", "update_teacher"]


@torch.no_grad()
def copy_into(teacher: nn.Module, student: nn.Module) -> None:
    """Give each parameter and buffer of the teacher the student's values of the same name.

    Parameters
    ----------
    teacher : nn.Module
        Changed in place. Its tensors are its own: a teacher that shares one with the student would teach what it is
        taught.
    student : nn.Module
        May have more than the teacher, such as predictors.

    Raises
    ------
    ValueError
        If the student lacks a name, or has it in another shape, or shares it with the teacher.
    """
    for own, given in (*_parameters(teacher, student), *_buffers(teacher, student)):
        own.copy_(given)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters towards the student's, ``θ_t ← m θ_t + (1 - m) θ_s``; copy the buffers.

    Parameters
    ----------
    teacher, student : nn.Module
        As in `copy_into`, with the same errors.
    momentum : float
        m, in [0, 1]. At 1 the teacher's parameters do not change by a bit; at 0 they are the student's.

    Raises
    ------
    ValueError
        If ``momentum`` is out of range.

    Notes
    -----
    To be called after each step of the optimiser. Parameters are matched by name; the originals zip two lists of
    unequal length, which is right only because the student's predictors come last.

    Source
    ------
    [DINO] §3.1; a mean teacher.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
    pairs = _parameters(teacher, student)
    if pairs:
        torch._foreach_lerp_([own for own, _ in pairs], [given for _, given in pairs], 1 - momentum)
    for own, given in _buffers(teacher, student):
        own.copy_(given)


class Center(nn.Module):
    """The running mean of the teacher's logits, ``c ← m c + (1 - m) mean(z)``, which is subtracted from them.

    It keeps one prototype from taking all images.

    Parameters
    ----------
    n_prototypes : int
    momentum : float
        m, in [0, 1]. Default 0.9, as in [DINO], [MUGS] and [CMD].

    Attributes
    ----------
    center : Tensor (n_prototypes,)
        A buffer, float32; 0 at first.

    Notes
    -----
    The loss takes the center as it was before the batch: update it afterwards.

    Source
    ------
    [DINO] §3.1, centering.

    Examples
    --------
    >>> center = Center(2)
    >>> center.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    >>> center.center
    tensor([0.2000, 0.0000])
    """

    center: Tensor

    def __init__(self, n_prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(n_prototypes))

    def update(self, logits: Tensor) -> None:
        """Take in logits (..., n_prototypes): the mean over all of their rows, on all processes together."""
        rows = logits.detach().flatten(0, -2)
        sums = rows.sum(0, dtype=torch.promote_types(rows.dtype, torch.float32))
        message = mean_over_processes(torch.cat([sums, sums.new_full((1,), len(rows))]))
        self.center.lerp_((message[:-1] / message[-1]).to(self.center.dtype), 1 - self.momentum)


def _parameters(teacher: nn.Module, student: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return _pairs(teacher.named_parameters(), student.named_parameters())


def _buffers(teacher: nn.Module, student: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return _pairs(teacher.named_buffers(), student.named_buffers())


def _pairs(teacher: Iterable[tuple[str, Tensor]], student: Iterable[tuple[str, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Match tensors by name."""
    given = dict(student)
    return [(own, _counterpart(name, own, given)) for name, own in teacher]


def _counterpart(name: str, own: Tensor, given: dict[str, Tensor]) -> Tensor:
    """Return the student's tensor of a name, if it is one that the teacher can learn from."""
    if name not in given:
        raise ValueError(f"the student must have all that the teacher has, got no {name!r}: build both alike")
    found = given[name]
    if found.shape != own.shape:
        raise ValueError(
            f"{name!r} must have the teacher's shape {tuple(own.shape)}, got {tuple(found.shape)} from the student: "
            "build both alike"
        )
    if found.is_set_to(own):
        raise ValueError(f"teacher and student must not share tensors, got one {name!r} for both: copy the module")
    return found
