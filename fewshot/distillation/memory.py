"""A first-in, first-out memory of rows: queues of negatives, and memories in which neighbours are looked for."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from fewshot.checks import check_positive
from fewshot.distillation.precision import wide, without_autocast
from fewshot.distributed import gather_rows
from fewshot.prototypes import l2_normalize

__all__ = ["FifoMemory", "check_capacity", "suggested_capacity"]

# Cosines held at once while neighbours are looked for.
_CHUNK = 2**24
_LARGEST_SUGGESTION = 4096


class FifoMemory(nn.Module):
    """Keep the last ``capacity`` rows that were pushed.

    Parameters
    ----------
    capacity : int
    n_features : int

    Attributes
    ----------
    rows : Tensor (capacity, n_features)
        A buffer, float32; zeros where nothing was pushed yet.

    Notes
    -----
    One pointer, ``n_pushed`` modulo the capacity. [MUGS]' advances twice a push, so that with batches of one size half
    of the slots stay as they began, which there is noise, and keeps each memory three times. All is in ``state_dict``,
    ``n_pushed`` as the module's extra state: it is known on the host, and no push waits for the device.

    With several processes all must push at the same time: each then keeps the rows of all, see `gather_rows`.

    Source
    ------
    [MUGS] §3, memory buffers.

    Examples
    --------
    >>> memory = FifoMemory(3, 1)
    >>> memory.push(torch.tensor([[1.0], [2.0]]))
    >>> memory.push(torch.tensor([[3.0], [4.0]]))
    >>> memory.entries().flatten().tolist(), memory.n_pushed
    ([4.0, 2.0, 3.0], 4)
    """

    rows: Tensor

    def __init__(self, capacity: int, n_features: int) -> None:
        super().__init__()
        check_positive("capacity", capacity)
        self.register_buffer("rows", torch.zeros((capacity, n_features)))
        self._n_pushed = 0

    @property
    def n_pushed(self) -> int:
        """How many rows were pushed since the beginning."""
        return self._n_pushed

    @property
    def is_full(self) -> bool:
        """Whether every slot holds a row."""
        return self._n_pushed >= len(self.rows)

    @property
    def n_bytes(self) -> int:
        """Size of the rows in bytes, filled or not."""
        return self.rows.numel() * self.rows.element_size()

    def entries(self) -> Tensor:
        """Return the rows that are kept (n_filled, n_features), in no particular order.

        A view: the next push changes it, so a loss that used it must have gone through ``backward`` by then.
        """
        return self.rows[: self._n_pushed]

    def push(self, rows: Tensor) -> None:
        """Take in rows (n, n_features) of all processes, over the oldest ones; of more than fit the last ones stay."""
        rows = gather_rows(rows.detach())
        capacity = len(self.rows)
        kept = rows[-capacity:]
        start = (self._n_pushed + len(rows) - len(kept)) % capacity
        n_first = min(len(kept), capacity - start)
        self.rows[start : start + n_first] = kept[:n_first]
        self.rows[: len(kept) - n_first] = kept[n_first:]
        self._n_pushed += len(rows)

    @torch.no_grad()
    def nearest(self, queries: Tensor, n_neighbours: int) -> Tensor:
        """Return the entries of largest cosine, the most similar first.

        Parameters
        ----------
        queries : Tensor (..., n_features)
            Ask before you push them, or each is its own nearest neighbour.
        n_neighbours : int

        Returns
        -------
        Tensor (..., n_neighbours, n_features)
            As they were pushed, not normalised; in the queries' dtype, without a gradient.

        Raises
        ------
        ValueError
            If there are fewer entries.
        """
        entries = self.entries()
        if n_neighbours > len(entries):
            raise ValueError(
                f"the memory must hold n_neighbours = {n_neighbours} rows, got {len(entries)}: "
                "wait until it is filled, or ask for fewer"
            )
        parts = torch.split(wide(queries).reshape(-1, queries.shape[-1]), max(1, _CHUNK // max(1, len(entries))))
        with without_autocast(queries):
            keys = l2_normalize(wide(entries)).mT
            index = [(l2_normalize(part) @ keys.to(part.dtype)).topk(n_neighbours).indices for part in parts]
        found = entries[torch.cat(index)].to(queries.dtype)
        return found.reshape(*queries.shape[:-1], n_neighbours, queries.shape[-1])

    def get_extra_state(self) -> Tensor:
        """Return ``n_pushed``, for ``state_dict``."""
        return torch.tensor(self._n_pushed)

    def set_extra_state(self, state: Tensor) -> None:
        """Take ``n_pushed`` from ``load_state_dict``."""
        self._n_pushed = int(state)


def suggested_capacity(n_images: int) -> int:
    """Return a quarter of the images, between 1 and 4096.

    Examples
    --------
    >>> suggested_capacity(6000), suggested_capacity(100_000)
    (1500, 4096)
    """
    return max(1, min(_LARGEST_SUGGESTION, n_images // 4))


def check_capacity(capacity: int, n_images: int) -> int:
    """Return ``capacity``, with a warning if it is more than a quarter of the images.

    An image then often meets its own past as a negative and as its neighbour.

    Raises
    ------
    ValueError
        If it is not positive.
    """
    check_positive("capacity", capacity)
    if 4 * capacity > n_images:
        warnings.warn(
            f"a memory of {capacity} rows is more than a quarter of {n_images} images, so that images meet their own "
            f"past in it: {suggested_capacity(n_images)} would do",
            stacklevel=2,
        )
    return capacity
