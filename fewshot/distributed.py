"""Sums and gathers over processes of ``torch.distributed``; the identity in a single process."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["all_sum", "gather_rows", "mean_over_processes", "rank", "world_size"]


def world_size() -> int:
    """Return how many processes there are, 1 without a process group.

    Examples
    --------
    >>> world_size(), rank()
    (1, 0)
    """
    return torch.distributed.get_world_size() if _has_group() else 1


def rank() -> int:
    """Return this process's number, in [0, world_size), 0 without a process group."""
    return torch.distributed.get_rank() if _has_group() else 0


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of ranks, the same on each.

    Parameters
    ----------
    rows : Tensor (n, ...)
        n may differ between processes, and may be 0; the other dimensions and the dtype are the same.

    Returns
    -------
    Tensor (n_all, ...)
        Contiguous, without a gradient; with one process ``rows`` itself.

    Notes
    -----
    Every process must call it. The numbers of rows go first, in a message of their own that the host waits for; then
    the rows, filled up to the largest number.
    """
    if world_size() == 1:
        return rows
    counts = _counts(rows)
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def all_sum(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Add tensors of one dtype over all processes, in one message; alone, return them as they are.

    Examples
    --------
    >>> all_sum(torch.ones(1), torch.zeros(2))
    (tensor([1.]), tensor([0., 0.]))
    """
    if world_size() == 1:
        return tensors
    message = torch.cat([tensor.detach().flatten() for tensor in tensors])
    torch.distributed.all_reduce(message)
    parts = torch.split(message, [tensor.numel() for tensor in tensors])
    return tuple(part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True))


def mean_over_processes(tensor: Tensor) -> Tensor:
    """Return the mean of the tensors of all processes, the same on each; with one process ``tensor`` itself.

    Parameters
    ----------
    tensor : Tensor (...)
        Floating point, of the same shape and dtype on all processes.
    """
    return tensor if world_size() == 1 else all_sum(tensor)[0] / world_size()


def _has_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _counts(rows: Tensor) -> list[int]:
    own = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(own) for _ in range(world_size())]
    torch.distributed.all_gather(counts, own)
    return [int(count) for count in torch.cat(counts).tolist()]
