"""Base of the category discoverers: scikit-learn's contract, partly labelled pools, names for new classes."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar, NamedTuple, Self

import numpy.typing as npt
import torch
from sklearn.base import ClusterMixin
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from fewshot.discovery.n_classes import estimate_n_classes
from fewshot.estimators.arrays import ArrayLike, like, named, read_features
from fewshot.estimators.base import StoredEstimator
from fewshot.estimators.labelled_rows import Labels, read_partial_labels
from fewshot.estimators.labels import label_array, new_names

__all__ = ["ArrayLike", "CategoryDiscoverer", "Discovered", "Labels", "found_names"]


class Discovered(NamedTuple):
    """The clusters of a pool, and its rows in the space of the model.

    Attributes
    ----------
    clusters : Tensor (n,), int64
        Cluster k < n_known is known class k; those above are found, in any order, and may be empty.
    rows : Tensor (n, n_dims)
        As `CategoryDiscoverer._embed` gives them.
    """

    clusters: Tensor
    rows: Tensor


class CategoryDiscoverer(ClusterMixin, StoredEstimator):  # type: ignore[misc]
    """A clustering of a pool whose known classes keep their labelled items, and which may hold classes without a label.

    Features are NumPy arrays or torch tensors (n, n_features), and so is what comes back; half precision is widened to
    float32. Classes are numbered: first the known ones in sorted order, then the found ones, largest first. What
    `fit_predict` and `predict` answer are these numbers; ``classes_[numbers]`` are the names.

    Attributes
    ----------
    labels_ : array or Tensor (n,), int64
        The class of each row of the pool, in [0, n_classes_). Labelled rows have their own class.
    probability_ : array or Tensor (n,)
        The probability of that class by the method's own model: `predict_proba` of the pool's rows at ``labels_``. Not
        stored with the state.
    classes_ : ndarray (n_classes_,)
        Names: those of the known classes as given, then those of the found ones. Where all known names are whole
        numbers these go on from the largest; with no label at all they are 0, 1, ...; else "new-01", "new-02", ...
    transduction_ : array or Tensor (n,)
        ``classes_[labels_]``; an array where names cannot be a tensor.
    is_labelled_ : array or Tensor (n,), bool
        Which rows came with a label.
    known_classes_ : ndarray (n_known_,)
        The first names of ``classes_``.
    n_classes_, n_known_ : int
    n_features_in_ : int
    dtype_ : torch.dtype
        That of the pool; scores are computed in it.
    """

    n_classes: str | int
    random_state: int
    _fitted = "labels_"
    n_classes_: int
    n_known_: int
    probability_: Any
    classes_: npt.NDArray[Any]
    # What estimates the number of classes when ``n_classes`` is "auto"; a method that finds it by itself overrides.
    _default_n_classes: ClassVar[str] = "auto"

    def fit(self, X: ArrayLike, y: Labels | None = None) -> Self:  # noqa: N803
        """Find the classes of a pool.

        Parameters
        ----------
        X : array or Tensor (n, n_features)
        y : array, Tensor or sequence (n,), optional
            The label of each row, of any hashable kind; -1, "-1" or None for a row without one; or
            `CategoricalLabels`, whose order of names is kept. Default: none has one.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If shapes do not match, features are not finite, or ``n_classes`` is below the number of known classes or
            above the number of rows.

        Warns
        -----
        ConvergenceWarning
            If fewer classes than asked for have a row.
        """
        features = read_features(self, X, reset=True)
        self.dtype_ = features.dtype
        names, labels = read_partial_labels(y, len(features), features.device)
        self.n_known_ = len(names)
        generator = torch.Generator().manual_seed(self.random_state)
        clusters, rows = self._discover(features, labels, len(names), generator)
        order = _order(clusters, len(names))
        self._warn_of_empty(len(order))
        self._reorder(order)
        position = torch.full((int(order.max()) + 1,), -1, device=order.device)
        position[order] = torch.arange(len(order), device=order.device)
        classes = position[clusters]
        self._finish(X, [*names, *found_names(names, len(order) - len(names))], classes, labels >= 0)
        self.probability_ = like(X, self._probability_of(rows, classes))
        return self

    def fit_predict(self, X: ArrayLike, y: Labels | None = None, **kwargs: object) -> Any:  # noqa: N803
        """Return `labels_` after `fit`."""
        return self.fit(X, y, **kwargs).labels_

    def predict(self, X: ArrayLike) -> Any:  # noqa: N803
        """Give the number of the class of each row, of the pool or new.

        Returns
        -------
        array or Tensor (n,), int64
            In [0, n_classes_); ``classes_`` has the names.
        """
        features = self._queries(X)
        return like(
            X,
            torch.cat(
                [self._log_probs(self._embed(rows)).argmax(-1) for rows in self._chunks(features, self.n_classes_)]
            ),
        )

    def predict_proba(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return how likely each class is for each row, by the method's own model.

        Returns
        -------
        array or Tensor (n, n_classes_)
            Not negative, rows sum to 1. Not calibrated: a confidence, not a frequency.
        """
        features = self._queries(X)
        return like(
            X, torch.cat([self._log_probs(self._embed(rows)).exp() for rows in self._chunks(features, self.n_classes_)])
        )

    @property
    def known_classes_(self) -> npt.NDArray[Any]:
        """The names of the known classes."""
        names: npt.NDArray[Any] = self.classes_[: self.n_known_]
        return names

    # What a discoverer is made of.

    @abstractmethod
    def _discover(self, features: Tensor, labels: Tensor, n_known: int, generator: torch.Generator) -> Discovered:
        """Learn the state; ``labels`` (n,) are the known classes 0..n_known - 1, each at least once, and -1."""

    @abstractmethod
    def _reorder(self, order: Tensor) -> None:
        """Keep the clusters ``order`` (n_classes_,) of the state alone, in that order; the known ones stay in place."""

    def _embed(self, features: Tensor) -> Tensor:
        """Map features into the space of the model, (n, n_dims): the features themselves."""
        return features

    @abstractmethod
    def _log_probs(self, rows: Tensor) -> Tensor:
        """Return log-probabilities (n, n_classes_) of rows in the space of the model."""

    @abstractmethod
    def _class_state(self) -> dict[str, Tensor]:
        """Return the state."""

    @abstractmethod
    def _set_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `_class_state` returned."""

    def _state(self) -> dict[str, Tensor]:
        of_pool = {"labels": torch.as_tensor(self.labels_), "is_labelled": torch.as_tensor(self.is_labelled_)}
        return self._class_state() | of_pool

    def _restore(self, names: list[Hashable], tensors: dict[str, Tensor]) -> None:
        labels, is_labelled = tensors.pop("labels"), tensors.pop("is_labelled")
        self.n_known_ = len(torch.unique(labels[is_labelled]))  # known classes have a labelled row, and come first
        self._set_state(tensors)
        self._finish(labels, names, labels, is_labelled)

    def _count(self, features: Tensor, labels: Tensor, n_known: int, generator: torch.Generator) -> int:
        """Return the number of classes asked for, or an estimate of it."""
        if isinstance(self.n_classes, str):
            method = self._default_n_classes if self.n_classes == "auto" else self.n_classes
            return estimate_n_classes(features, labels, method=method, generator=generator).n_classes
        if self.n_classes < max(n_known, 1):
            raise ValueError(
                f"n_classes must be at least 1 and the number of known classes, {n_known}, got {self.n_classes}: "
                "count the known ones too"
            )
        if self.n_classes > len(features):
            raise ValueError(
                f"n_classes={self.n_classes} needs as many rows, got n_samples={len(features)}: give fewer classes"
            )
        return self.n_classes

    def _warn_of_empty(self, n_found: int) -> None:
        if not isinstance(self.n_classes, str) and n_found < self.n_classes:
            warnings.warn(
                f"n_classes={self.n_classes}, but only {n_found} of them have a row: the others are left out",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _finish(self, X: ArrayLike, names: list[Hashable], labels: Tensor, is_labelled: Tensor) -> None:  # noqa: N803
        """Set the fitted attributes of the pool."""
        self.classes_ = label_array(names)
        self.n_classes_ = len(names)
        self.labels_ = like(X, labels)
        self.is_labelled_ = like(X, is_labelled)
        self.transduction_ = named(X, self.classes_, labels)

    def _probability_of(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Return the probability (n,) of the class of each row, from rows in the space of the model."""
        parts = zip(self._chunks(rows, self.n_classes_), self._chunks(classes, self.n_classes_), strict=True)
        return torch.cat([self._log_probs(part).exp().gather(1, own[:, None])[:, 0] for part, own in parts])

    def _device(self) -> torch.device:
        return next(iter(self._class_state().values())).device


def _order(clusters: Tensor, n_known: int) -> Tensor:
    """Return the known clusters, then those found that are not empty, largest first."""
    counts = torch.bincount(clusters, minlength=n_known)
    found = counts[n_known:].sort(descending=True, stable=True)
    order = torch.cat([torch.arange(n_known, device=counts.device), n_known + found.indices])
    return order[: n_known + int((found.values > 0).sum())]


def found_names(known: list[Hashable], n_new: int) -> list[Hashable]:
    """Return names for the found classes that no known class has."""
    if all(isinstance(name, (int, float)) and not isinstance(name, bool) and name == name // 1 for name in known):
        last: Any = max([*known, -1])  # type: ignore[type-var]
        return [last + i for i in range(1, n_new + 1)]
    return list(new_names(known, n_new))
