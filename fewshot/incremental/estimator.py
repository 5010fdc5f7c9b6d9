"""Incremental classifiers: classes that come and go, scores, and rejection of items of no known class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import ClassifierMixin, clone
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewshot.estimators.arrays import ArrayLike, like, named, read_features
from fewshot.estimators.base import StoredEstimator
from fewshot.estimators.labelled_rows import Labels, read_labelled
from fewshot.estimators.labels import in_order, label_array, plain, with_unknown

__all__ = ["ArrayLike", "IncrementalClassifier", "Labels"]


class IncrementalClassifier(ClassifierMixin, StoredEstimator):  # type: ignore[misc]
    """A classifier that takes in new classes, and more shots of known ones, at any time.

    Features are NumPy arrays or torch tensors (n, n_features), and so is what comes back. Labels may be of any hashable
    kind. The state lies where the first features lay.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
        The labels in order of arrival, those that arrived together sorted; columns of scores are in this order.
    n_features_in_ : int
    dtype_ : torch.dtype
        That of the first features; scores are computed in it.
    base_classes_ : ndarray
        The labels that came with the base session: by `fit`, or by `partial_fit` with ``base=True``.
    """

    logit_scale: float
    _fitted = "_index"
    _index: dict[Hashable, int]
    _known_scores: Tensor | None

    def fit(self, X: ArrayLike, y: Labels) -> Self:  # noqa: N803
        """Forget everything and learn the base session.

        Parameters
        ----------
        X : array or Tensor (n, n_features)
        y : array, Tensor or sequence (n,)
            A label for each row.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If shapes do not match or features are not finite.
        """
        features, labels = self._labelled(X, y, reset=True)
        self._start(features.shape[1], features.dtype, features.device)
        self._take_in(features, labels, base=True)
        return self

    def partial_fit(self, X: ArrayLike, y: Labels, classes: object = None, *, base: bool = False) -> Self:  # noqa: N803
        """Learn more: new classes, more shots of known ones, or both.

        Parameters
        ----------
        X : array or Tensor (n, n_features)
        y : array, Tensor or sequence (n,)
        classes
            Ignored; scikit-learn's convention. Classes need not be announced.
        base : bool
            Whether classes that are new here belong to the base session.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If shapes do not match or features are not finite.
        """
        is_first = not hasattr(self, "_index")
        features, labels = self._labelled(X, y, reset=is_first)
        if is_first:
            self._start(features.shape[1], features.dtype, features.device)
        self._take_in(features, labels, base=base)
        return self

    def remove_class(self, label: Hashable) -> Self:
        """Forget a class: it is not predicted any more.

        Where a classifier keeps sums over all classes, these keep the class's items; its Notes say so.

        Raises
        ------
        ValueError
            If it is not known.
        """
        check_is_fitted(self, "_index")
        label = plain(label)
        if label not in self._index:
            raise ValueError(f"no class {label!r} to remove: the {len(self._index)} known ones are in classes_")
        self._forget(self._index[label])
        del self._index[label]
        self._index = {known: position for position, known in enumerate(self._index)}
        return self

    @property
    def classes_(self) -> npt.NDArray[Any]:
        """The labels, in the order of the columns of scores."""
        if not hasattr(self, "_index"):
            raise AttributeError(f"{type(self).__name__} has no classes_ before it has learned any")
        return label_array(self._index)

    @property
    def base_classes_(self) -> npt.NDArray[Any]:
        """The labels of the base session."""
        labels: npt.NDArray[Any] = self.classes_[self._is_base().cpu().numpy()]
        return labels

    def class_scores(self, X: ArrayLike) -> Any:  # noqa: N803
        """Score rows against every class, one column per class for two classes too.

        Returns
        -------
        array or Tensor (n, n_classes)
            The highest wins; columns as in ``classes_``.
        """
        return like(X, self._scores(self._queries(X)))

    def decision_function(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return `class_scores`, except that two classes give the second's score less the first's, (n,).

        scikit-learn's contract of ``decision_function``; `class_scores` has a column per class in any case.

        Returns
        -------
        array or Tensor (n, n_classes) or (n,)
        """
        scores = self._scores(self._queries(X))
        return like(X, scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores)

    def predict_proba(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return the softmax of scores times ``logit_scale``.

        Returns
        -------
        array or Tensor (n, n_classes)
            Not negative, rows sum to 1. Not calibrated: a confidence, not a frequency.
        """
        return like(X, self.probabilities_of(self._scores(self._queries(X))))

    def probabilities_of(self, scores: ArrayLike) -> Any:
        """Return the probabilities of `predict_proba` from scores that are already there.

        Parameters
        ----------
        scores : array or Tensor (n, n_classes)
            As `class_scores` returns them.

        Returns
        -------
        array or Tensor (n, n_classes)
        """
        return like(scores, (self.logit_scale * torch.as_tensor(scores)).log_softmax(-1).exp())

    def predict(self, X: ArrayLike, *, reject: float | None = None, unknown: Hashable = None) -> Any:  # noqa: N803
        """Return the class of each row, or that of unknown rows.

        Parameters
        ----------
        X : array or Tensor (n, n_features)
        reject : float, optional
            In (0, 1): rows are answered with ``unknown`` where their highest score is below this quantile of the scores
            of known items, so that about this share of known items is rejected. Needs `calibrate_rejection`.
        unknown
            The answer for them; default -1 where labels are numbers, else "unknown".

        Returns
        -------
        array or Tensor (n,)
            Labels; a tensor where features and labels can be one.
        """
        features = self._queries(X)
        scores, positions = self._best(features)
        names = self.classes_
        if reject is not None:
            names = with_unknown(names, unknown)
            positions = positions.masked_fill(scores < self.rejection_threshold(reject), len(names) - 1)
        return named(X, names, positions)

    def highest_score(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return each row's highest score, (n,): low for rows of no known class."""
        return like(X, self._best(self._queries(X))[0])

    def calibrate_rejection(self, X: ArrayLike, y: Labels, *, n_folds: int = 5, random_state: int = 0) -> Self:  # noqa: N803
        """Learn how items of known classes score when they were not learned from.

        Each of ``n_folds`` parts of these rows is scored by a copy that learned the others alone.

        Parameters
        ----------
        X, y
            The base session's rows and labels; classes with fewer rows than folds are left out of the count.
        n_folds : int
            At least 2.
        random_state : int
            Decides the parts.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If no class has ``n_folds`` rows.

        Notes
        -----
        The scores are of the base session; classes learned later from few shots may be rejected more often. A copy has
        learned fewer rows than the classifier: where scores grow or fall with the number of rows, as those of ridge
        heads do, the share is off by as much, and more folds bring it nearer.
        """
        check_is_fitted(self, "_index")
        features, labels = self._labelled(X, y, reset=False)
        index = np.array([self._index.get(label, -1) for label in labels])
        counts = np.bincount(index[index >= 0], minlength=len(self._index))
        rows = np.flatnonzero((index >= 0) & (counts[index] >= n_folds))
        if not len(rows):
            raise ValueError(
                f"rejection is calibrated on known classes with n_folds = {n_folds} rows or more, got none: "
                "give the base session's rows, or fewer folds"
            )
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=random_state).split(rows, index[rows])
        scores = [self._held_out_scores(features, index, rows[train], rows[test]) for train, test in folds]
        self._known_scores = torch.cat(scores).sort().values
        return self

    def rejection_threshold(self, reject: float) -> float:
        """Return the score below which the share ``reject`` of known items fell.

        Raises
        ------
        ValueError
            If ``reject`` is not in (0, 1), or `calibrate_rejection` was not called.
        """
        if not 0 < reject < 1:
            raise ValueError(f"reject must lie in (0, 1), the share of known items that may be rejected, got {reject}")
        if self._known_scores is None:
            raise ValueError("reject needs calibrate_rejection(X, y) first, with rows of known classes")
        return float(
            np.quantile(self._known_scores.double().cpu().numpy(), reject)
        )  # torch's is for 16 million at most

    # What a classifier is made of.

    @abstractmethod
    def _begin(self, n_features: int, dtype: torch.dtype, device: torch.device) -> None:
        """Make an empty state, and check the settings."""

    @abstractmethod
    def _learn(self, features: Tensor, index: Tensor, n_classes: int, *, base: bool) -> None:
        """Take in features (n, n_features) of the classes at positions ``index`` (n,); new ones come last."""

    @abstractmethod
    def _forget(self, position: int) -> None:
        """Forget the class at a position; those after it move up."""

    @abstractmethod
    def _scores(self, features: Tensor) -> Tensor:
        """Return scores (n, n_classes)."""

    @abstractmethod
    def _is_base(self) -> Tensor:
        """Return (n_classes,) bool."""

    @abstractmethod
    def _class_state(self) -> dict[str, Tensor]:
        """Return the state."""

    @abstractmethod
    def _set_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `_class_state` returned."""

    def _state(self) -> dict[str, Tensor]:
        known = {} if self._known_scores is None else {"known_scores": self._known_scores}
        return self._class_state() | known

    def _restore(self, names: list[Hashable], tensors: dict[str, Tensor]) -> None:
        known_scores = tensors.pop("known_scores", None)
        self._start(self.n_features_in_, self.dtype_, next(iter(tensors.values())).device)
        self._index = {label: position for position, label in enumerate(names)}
        self._known_scores = known_scores
        self._set_state(tensors)

    def _start(self, n_features: int, dtype: torch.dtype, device: torch.device) -> None:
        """Forget everything."""
        self.dtype_ = dtype
        self._begin(n_features, dtype, device)
        self._index, self._known_scores = {}, None

    def _best(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return each row's highest score and its position; a bounded number of scores is held at a time."""
        parts = [self._scores(rows).max(-1) for rows in self._chunks(features, len(self._index))]
        return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])

    def _take_in(self, features: Tensor, labels: list[Hashable], *, base: bool) -> None:
        new = list(dict.fromkeys(label for label in labels if label not in self._index))
        index = {**self._index, **{label: len(self._index) + i for i, label in enumerate(in_order(new))}}
        positions = torch.tensor([index[label] for label in labels], device=features.device)
        self._learn(features, positions, len(index), base=base)
        self._index = index  # not before: what cannot be learned leaves no label behind

    def _held_out_scores(
        self, features: Tensor, index: npt.NDArray[Any], train: npt.NDArray[Any], test: npt.NDArray[Any]
    ) -> Tensor:
        copy = clone(self).fit(features[train], index[train])
        return copy._best(features[test])[0]  # type: ignore[no-any-return]

    def _queries(self, X: ArrayLike) -> Tensor:  # noqa: N803
        check_is_fitted(self, "_index")
        if not self._index:
            raise ValueError("no class is known: learn one with partial_fit first")
        return self._placed(read_features(self, X, reset=False), reset=False)

    def _labelled(self, X: ArrayLike, y: Labels, *, reset: bool) -> tuple[Tensor, list[Hashable]]:  # noqa: N803
        features, labels = read_labelled(self, X, y, reset=reset)
        return self._placed(features, reset=reset), labels

    def _placed(self, features: Tensor, *, reset: bool) -> Tensor:
        """Return rows on the device of the state."""
        return features if reset else features.to(self._device())

    def _device(self) -> torch.device:
        return self._is_base().device
