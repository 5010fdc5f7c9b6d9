"""Nearest class mean: one prototype per class, from running sums."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.checks import check_choice, check_positive
from fewshot.incremental.calibration import debiased_norms
from fewshot.incremental.class_statistics import ClassStatistics
from fewshot.incremental.estimator import IncrementalClassifier
from fewshot.incremental.neighbours import MANY_CLASSES, nearest
from fewshot.prototypes import l2_normalize

__all__ = ["METRICS", "NearestClassMean", "PrototypeClassifier"]

METRICS = ("cosine", "euclidean")


class PrototypeClassifier(IncrementalClassifier):
    """Base of classifiers by one vector per class: sums, and a table of vectors computed from them on use."""

    metric: str = "cosine"
    normalize_before_mean: bool
    center: str | npt.ArrayLike | None

    def _begin(self, n_features: int, dtype: torch.dtype, device: torch.device) -> None:
        self._check_settings()
        self._statistics = ClassStatistics(n_features, device)
        self._table = _Table(torch.zeros((0, n_features), dtype=dtype, device=device))

    def _check_settings(self) -> None:
        if isinstance(self.center, str):
            check_choice("center", self.center, ("base",))
            if self.normalize_before_mean:
                raise ValueError(
                    "center='base' moves while base items arrive, which cannot be undone in normalised items: "
                    "give center as a vector, or set normalize_before_mean=False"
                )

    def _learn(self, features: Tensor, index: Tensor, n_classes: int, *, base: bool) -> None:
        items = l2_normalize(self._centered(features)) if self.normalize_before_mean else features
        known_base = self._statistics.is_base
        is_base_changed = base or bool(known_base[index[index < len(known_base)]].any())
        self._statistics.add(items, index, n_classes, base=base)
        if is_base_changed:
            self._table.clear()
        else:
            self._table.stale.update(torch.unique(index).tolist())

    def _forget(self, position: int) -> None:
        if bool(self._statistics.is_base[position]):
            self._table.clear()
        else:
            self._weights()
            self._table.remove(position)
        self._statistics.remove(position)

    def _weights(self) -> Tensor:
        """Return the vectors (n_classes, n_features), up to date."""
        table, n_classes = self._table, self._statistics.n_classes
        if not table.n_rows:
            table.shared = self._shared()
            table.stale = set(range(n_classes))
        if table.stale:
            index = torch.tensor(sorted(table.stale), device=self._device())
            table.put(index, self._vectors(index, table.shared), n_classes)
        return table.vectors

    def _shared(self) -> Any:
        """Return the quantity that all vectors depend on; it changes with the base session only."""
        return None

    @abstractmethod
    def _vectors(self, index: Tensor, shared: Any) -> Tensor:
        """Return the vectors (k, n_features) of some classes."""

    def _prototypes(self, index: Tensor) -> Tensor:
        """Return the centered means (k, n_features) of some classes."""
        means = self._statistics.means(index).to(self.dtype_)
        return means if self.normalize_before_mean else self._centered(means)

    def _centered(self, rows: Tensor) -> Tensor:
        if self.center is None:
            return rows
        if self._table.center is None:
            self._table.center = self._base_mean() if isinstance(self.center, str) else torch.as_tensor(self.center)
        return rows - self._table.center.to(rows)

    def _base_mean(self) -> Tensor:
        base = self._statistics.is_base
        return self._statistics.sums[base].sum(0) / self._statistics.counts[base].sum().clamp(min=1)

    def _embed(self, features: Tensor) -> Tensor:
        """Return rows as they meet the vectors: centered, of unit length."""
        return l2_normalize(self._centered(features.to(self.dtype_)))

    def _scores(self, features: Tensor) -> Tensor:
        return self._embed(features) @ self._weights().mT

    def _best(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if self._statistics.n_classes < MANY_CLASSES:
            return super()._best(features)
        return nearest(self._embed(features), self._weights(), metric=self.metric)

    def _is_base(self) -> Tensor:
        return self._statistics.is_base

    def _class_state(self) -> dict[str, Tensor]:
        return self._statistics.tensors()

    def _set_state(self, tensors: dict[str, Tensor]) -> None:
        self._statistics.load(tensors)


class _Table:
    """The vectors, and which of them are to be made again; growing by doubling, so that no row is copied each time."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self.n_rows = 0
        self.stale: set[int] = set()
        self.shared: Any = None
        self.center: Tensor | None = None

    @property
    def vectors(self) -> Tensor:
        return self._rows[: self.n_rows]

    def clear(self) -> None:
        self.n_rows, self.stale, self.center = 0, set(), None

    def put(self, index: Tensor, vectors: Tensor, n_rows: int) -> None:
        if n_rows > len(self._rows):
            more = max(n_rows, 2 * len(self._rows)) - len(self._rows)
            self._rows = torch.cat([self._rows, vectors.new_zeros((more, vectors.shape[1]))])
        self._rows[index] = vectors
        self.n_rows, self.stale = n_rows, set()

    def remove(self, position: int) -> None:
        keep = torch.arange(self.n_rows, device=self._rows.device) != position
        self._rows = self.vectors[keep]
        self.n_rows -= 1


class NearestClassMean(PrototypeClassifier):
    """Nearest class mean, by cosine or Euclidean distance.

    Parameters
    ----------
    metric : {"cosine", "euclidean"}
    normalize_before_mean : bool
        Average unit vectors (SimpleShot, Avalanche) rather than raw features (TEEN, SimpleCIL).
    center : None, "base" or array (n_features,)
        What is subtracted before normalising: the mean of the base session's items (SimpleShot's CL2N), or a vector of
        one's own.
    shot_debias : bool
        Divide a prototype of a class that is not of the base session by `debiased_norms` in place of its length.
        Cosine only.
    logit_scale : float
        Multiplies scores in `predict_proba`.

    Notes
    -----
    Shots in any order, one at a time or at once, give the same up to rounding. Adding a class changes no other class's
    score, unless it is a base class and ``center`` or ``shot_debias`` depends on it.

    Source
    ------
    Cosine, raw means: SimpleCIL. ``normalize_before_mean`` and ``center``: Wang et al. 2019 (SimpleShot).

    Examples
    --------
    >>> import numpy as np
    >>> model = NearestClassMean().fit(np.array([[1.0, 0.0], [0.0, 1.0]]), ["crow", "wren"])
    >>> model.partial_fit(np.array([[-1.0, 0.1]]), ["tit"]).predict(np.array([[-2.0, 0.0], [0.1, 1.0]])).tolist()
    ['tit', 'wren']
    """

    def __init__(
        self,
        metric: str = "cosine",
        normalize_before_mean: bool = False,
        center: str | npt.ArrayLike | None = None,
        shot_debias: bool = False,
        logit_scale: float = 16.0,
    ) -> None:
        self.metric = metric
        self.normalize_before_mean = normalize_before_mean
        self.center = center
        self.shot_debias = shot_debias
        self.logit_scale = logit_scale

    def _check_settings(self) -> None:
        super()._check_settings()
        check_choice("metric", self.metric, METRICS)
        check_positive("logit_scale", self.logit_scale)
        if self.shot_debias and self.metric != "cosine":
            raise ValueError("shot_debias corrects cosines: set metric='cosine', or shot_debias=False")

    def _embed(self, features: Tensor) -> Tensor:
        return super()._embed(features) if self.metric == "cosine" else self._centered(features.to(self.dtype_))

    def _shared(self) -> Tensor:
        return self._statistics.within_trace().nan_to_num(0.0).to(self.dtype_)

    def _vectors(self, index: Tensor, shared: Tensor) -> Tensor:
        prototypes = self._prototypes(index)
        if self.metric == "euclidean":
            return prototypes
        if not self.shot_debias:
            return l2_normalize(prototypes)
        return self._debiased(prototypes, index, shared)

    def _debiased(self, prototypes: Tensor, index: Tensor, trace: Tensor) -> Tensor:
        norms = debiased_norms(prototypes, self._statistics.counts[index].to(self.dtype_), trace)
        norms = torch.where(self._statistics.is_base[index], torch.linalg.vector_norm(prototypes, dim=1), norms)
        return prototypes / norms.clamp(min=torch.finfo(norms.dtype).tiny)[:, None]

    def _scores(self, features: Tensor) -> Tensor:
        if self.metric == "cosine":
            return super()._scores(features)
        rows, vectors = self._embed(features), self._weights()
        return rows @ vectors.mT - 0.5 * vectors.square().sum(1) - 0.5 * rows.square().sum(1, keepdim=True)
