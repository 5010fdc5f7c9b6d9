r"""Sums over all rows, a chunk at a time and, where there are several processes, over all of them.

Nothing of the size of the rows is kept: features may be a memory-mapped tensor, or this process's share of them.

Source: the sums of parts are the sums of the whole, as in Neal and Hinton, "A view of the EM algorithm that justifies
incremental, sparse, and other variants", 1998.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fewshot.discovery.mixture.scaling import Standardization, standardization, working_dtype
from fewshot.distributed import all_sum

__all__ = [
    "HardResponsibilities",
    "Pool",
    "Responsibilities",
    "SoftResponsibilities",
    "chunks",
    "data_standardization",
    "exp_and_log_sum",
    "scaled_chunks",
    "total_scatter",
]

# Numbers held per row times rows of a chunk: small enough to stay in a cache, large enough for a matrix product.
_CHUNK = 2**20
# A smaller responsibility counts as zero.
NEGLIGIBLE = 1e-20
# Log terms are clamped this far (nats) below the row maximum: subnormal float32 arithmetic is slow.
_DEPTH = 80.0


class Pool(NamedTuple):
    """The rows that a mixture is fitted to.

    Attributes
    ----------
    features : Tensor (n, d)
        Any floating dtype; may be memory-mapped.
    labels : Tensor (n,), int64
        The component of a labelled row, -1 of an unlabelled one.
    weights : Tensor (n,) or None
        How often each row counts, not negative.
    chunk_size : int or None
        Rows at a time.
    """

    features: Tensor
    labels: Tensor
    weights: Tensor | None = None
    chunk_size: int | None = None


class Responsibilities(Protocol):
    """Responsibilities r_ik of the components for the rows of a chunk, times the weights of the rows."""

    def sum(self, values: Tensor) -> Tensor:
        """Return Σ_i r_ik v_i, float64 (k, m), of values (b, m)."""

    def counts(self) -> Tensor:
        """Return Σ_i r_ik, float64 (k,)."""

    def of(self, component: int) -> tuple[Tensor, Tensor]:
        """Return the rows of positive responsibility for a component, and these responsibilities."""

    def dense(self) -> Tensor:
        """Return r (b, k)."""


@dataclass(frozen=True, slots=True, eq=False)
class SoftResponsibilities:
    """A matrix of responsibilities (b, k)."""

    responsibilities: Tensor

    def sum(self, values: Tensor) -> Tensor:
        """Add by one product."""
        return (self.responsibilities.mT @ values).double()

    def counts(self) -> Tensor:
        """Add columns."""
        return self.responsibilities.sum(0).double()

    def of(self, component: int) -> tuple[Tensor, Tensor]:
        """Leave out the rows of zero responsibility."""
        column = self.responsibilities[:, component]
        index = column.nonzero()[:, 0]
        return index, column[index]

    def dense(self) -> Tensor:
        """Return the matrix."""
        return self.responsibilities


@dataclass(frozen=True, slots=True, eq=False)
class HardResponsibilities:
    """One component (b,) for each row, with weights (b,) of the rows' dtype; -1 for a row that does not count."""

    components: Tensor
    weights: Tensor
    n_components: int

    def sum(self, values: Tensor) -> Tensor:
        """Add each row to its component's sum."""
        weighted = values.double() * self.weights.double()[:, None]
        zeros = weighted.new_zeros((self.n_components + 1, values.shape[1]))
        return zeros.index_add_(0, self.components + 1, weighted)[1:]

    def counts(self) -> Tensor:
        """Count rows by their weights."""
        return torch.bincount(self.components + 1, self.weights.double(), self.n_components + 1)[1:]

    def of(self, component: int) -> tuple[Tensor, Tensor]:
        """Return the rows of a component."""
        index = (self.components == component).nonzero()[:, 0]
        return index, self.weights[index]

    def dense(self) -> Tensor:
        """Write them as one-hot rows."""
        rows = self.weights.new_zeros((len(self.weights), self.n_components + 1))
        return rows.scatter_(1, self.components[:, None] + 1, self.weights[:, None])[:, 1:]


def exp_and_log_sum(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax over the last dimension and logsumexp, in the place of the logits.

    Examples
    --------
    >>> exp_and_log_sum(torch.tensor([[0.0, 0.0], [5.0, -200.0]]))
    (tensor([[0.5000, 0.5000], [1.0000, 0.0000]]), tensor([0.6931, 5.0000]))
    """
    top = logits.amax(-1, keepdim=True)
    terms = logits.sub_(top).clamp_(min=-_DEPTH).exp_()
    sums = terms.sum(-1, keepdim=True)
    return torch.threshold_(terms.div_(sums), NEGLIGIBLE, 0.0), (top + sums.log())[:, 0]


def chunks(n_items: int, numbers_per_row: int, chunk_size: int | None = None) -> Iterator[slice]:
    """Cut n rows into slices of ``chunk_size``, by default as many rows as make about a million numbers.

    Examples
    --------
    >>> list(chunks(5, 1, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]

    Notes
    -----
    Without rows there is one empty slice, so that a process without rows adds zeros of the right shape.
    """
    size = max(1, _CHUNK // max(1, numbers_per_row)) if chunk_size is None else chunk_size
    return (slice(start, min(start + size, n_items)) for start in range(0, max(1, n_items), size))


def scaled_chunks(pool: Pool, scaling: Standardization, numbers_per_row: int) -> Iterator[tuple[Tensor, slice]]:
    """Yield the standardized rows of a pool a chunk at a time, and the slice of each chunk."""
    for part in chunks(len(pool.features), numbers_per_row, pool.chunk_size):
        yield scaling.rows(pool.features[part]), part


def data_standardization(
    features: Tensor, weights: Tensor | None = None, *, chunk_size: int | None = None
) -> Standardization:
    """Standardize by the mean of all rows and their standard deviation.

    Parameters
    ----------
    features : Tensor (n, n_features)
    weights : Tensor (n,), optional
    chunk_size : int, optional

    Examples
    --------
    >>> data_standardization(torch.tensor([[1.0], [3.0]]))
    Standardization(shift=tensor([2.], dtype=torch.float64), unit=tensor(1., dtype=torch.float64))
    """
    n, n_features = features.shape
    sums = features.new_zeros(n_features, dtype=torch.float64)
    total, squares = sums.new_zeros(()), sums.new_zeros(())
    for part in chunks(n, n_features, chunk_size):
        w = row_weights(features, weights, part)
        sums += w @ features[part].double()
        total += w.sum()
    sums, total = all_sum(sums, total)
    mean = sums / total.clamp(min=torch.finfo(torch.float64).tiny)
    for part in chunks(n, n_features, chunk_size):
        squares += row_weights(features, weights, part) @ (features[part].double() - mean).square().mean(-1)
    return standardization(mean, all_sum(squares)[0] / total, working_dtype(features))


def row_weights(features: Tensor, weights: Tensor | None, part: slice) -> Tensor:
    """Return the weights of a chunk's rows in float64, ones by default."""
    if weights is None:
        return features.new_ones(part.stop - part.start, dtype=torch.float64)
    return weights[part].double()


def total_scatter(
    features: Tensor, scaling: Standardization, weights: Tensor | None = None, *, chunk_size: int | None = None
) -> Tensor:
    """Return Σ_i w_i x_i x_iᵀ of standardized rows, float64 (d, d)."""
    n_features = features.shape[1]
    scatter = features.new_zeros((n_features, n_features), dtype=torch.float64)
    for part in chunks(len(features), n_features, chunk_size):
        rows = scaling.rows(features[part])
        weighted = rows if weights is None else rows * weights[part].to(rows)[:, None]
        scatter += weighted.mT @ rows
    return all_sum(scatter)[0]
