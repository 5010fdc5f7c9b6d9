"""Sufficient statistics of class means, class by class: shots may come in any order and number."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ClassStatistics"]

_CHUNK = 8192


class ClassStatistics:
    """Counts, sums and sums of squared lengths of each class's features, in float64; rows in order of arrival.

    Parameters
    ----------
    n_features
    device

    Attributes
    ----------
    n_classes : int
    """

    def __init__(self, n_features: int, device: torch.device) -> None:
        self.n_classes = 0
        self._sums = torch.zeros((0, n_features), dtype=torch.float64, device=device)
        self._counts = torch.zeros(0, dtype=torch.float64, device=device)
        self._squares = torch.zeros(0, dtype=torch.float64, device=device)
        self._is_base = torch.zeros(0, dtype=torch.bool, device=device)

    @property
    def sums(self) -> Tensor:
        """(n_classes, n_features)."""
        return self._sums[: self.n_classes]

    @property
    def counts(self) -> Tensor:
        """(n_classes,)."""
        return self._counts[: self.n_classes]

    @property
    def squares(self) -> Tensor:
        """(n_classes,) sums of squared lengths."""
        return self._squares[: self.n_classes]

    @property
    def is_base(self) -> Tensor:
        """(n_classes,) whether a class came with the base session."""
        return self._is_base[: self.n_classes]

    def means(self, index: Tensor | None = None) -> Tensor:
        """Return the means (k, n_features) of some classes, or of all, in float64."""
        sums, counts = (self.sums, self.counts) if index is None else (self.sums[index], self.counts[index])
        return sums / counts[:, None]

    def add(self, features: Tensor, index: Tensor, n_classes: int, *, base: bool) -> None:
        """Take in features (n, n_features) of classes ``index`` (n,) in [0, n_classes); new classes come last.

        Only classes that are new here become base classes.
        """
        self._reserve(n_classes)
        self._is_base[self.n_classes : n_classes] = base
        self.n_classes = n_classes
        for rows, classes in zip(torch.split(features, _CHUNK), torch.split(index, _CHUNK), strict=True):
            wide = rows.double()
            self._sums.index_add_(0, classes, wide)
            self._squares.index_add_(0, classes, wide.square().sum(1))
            self._counts.index_add_(0, classes, torch.ones_like(wide[:, 0]))

    def remove(self, position: int) -> None:
        """Forget a class; those after it move up."""
        keep = torch.arange(self.n_classes, device=self._counts.device) != position
        self.load({name: tensor[keep] for name, tensor in self.tensors().items()})

    def within_trace(self) -> Tensor:
        """Return the trace of the base classes' common covariance: scatter over n - n_classes, a scalar.

        NaN where no base class has two items.
        """
        counts, base = self.counts, self.is_base
        scatter = (self.squares - self.sums.square().sum(1) / counts)[base].sum()
        n_free = (counts[base] - 1).sum()
        return torch.where(n_free > 0, scatter.clamp(min=0) / n_free, torch.nan)

    def tensors(self) -> dict[str, Tensor]:
        """Return all there is to keep."""
        return {"sums": self.sums, "counts": self.counts, "squares": self.squares, "is_base": self.is_base}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        self._sums, self._counts = tensors["sums"].clone(), tensors["counts"].clone()
        self._squares, self._is_base = tensors["squares"].clone(), tensors["is_base"].clone()
        self.n_classes = len(self._counts)

    def _reserve(self, n_classes: int) -> None:
        """Make room, twice as much as there was, so that classes that come one by one are not copied each time."""
        capacity = len(self._counts)
        if n_classes <= capacity:
            return
        more = max(n_classes, 2 * capacity) - capacity
        for name in ("_sums", "_counts", "_squares", "_is_base"):
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_zeros((more, *old.shape[1:]))]))
