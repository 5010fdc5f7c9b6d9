"""`FewShotClassifier`: any method of an episode under scikit-learn's contract, with class names and "unknown"."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewshot.episodic.method import Method, check_class_columns
from fewshot.episodic.query_set import MAX_QUERIES, answer_queries
from fewshot.estimators.arrays import ArrayLike, like, named
from fewshot.estimators.base import TensorEstimator
from fewshot.estimators.labelled_rows import Labels, is_missing, listed, raveled, read_labelled, warn_of_queries
from fewshot.estimators.labels import in_order, label_array, with_unknown
from fewshot.registry.episodic import build_method
from fewshot.rejection import calibration_scores, is_rejected, known_p_values, nonconformity, smallest_share

__all__ = ["DEFAULT_METHOD", "FewShotClassifier"]

DEFAULT_METHOD = "unem-adaptive"


class FewShotClassifier(ClassifierMixin, TensorEstimator):  # type: ignore[misc]
    """Name the classes of queries from a few labelled items of each.

    Features are NumPy arrays or torch tensors (n, n_features) on any device, and so is what comes back; half precision
    is widened to float32. Labels may be of any hashable kind, and classes may have different numbers of items.

    Parameters
    ----------
    method : str or Method
        ``name`` or ``name:option=value,...`` as `fewshot.build_method` takes it, or such an object.
    reject : float, optional
        In (0, 1): `predict` answers ``unknown`` for rows that are farther from every class than all but about this
        share of items of known classes are (`known_p_values` is at most this); they do not sway the answers of the
        others. None: never.
    unknown : hashable, optional
        The answer for them; default -1 where labels are numbers, else "unknown".
    max_queries : int
        Most queries that are answered together, which bounds the memory; see `fewshot.episodic.query_set`.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
        The labels, sorted where they can be; columns of probabilities are in this order.
    n_features_in_ : int
    dtype_ : torch.dtype
        That of the support; answers are computed in it.
    method_ : Method
    is_transductive_ : bool
        Whether a row's answer depends on the rows it is asked with.
    support_, support_labels_ : Tensor (n_support, n_features) and (n_support,)
        The labelled items, and the position of their label in ``classes_``.
    calibration_scores_ : Tensor (n_support,)
        Leave-one-out non-conformity scores of the support items; see `fewshot.rejection`.
    transduction_ : array or Tensor (n,)
        After `fit_predict`: a label for each row.
    label_distributions_ : array or Tensor (n, n_classes)
        After `fit_predict`: its probabilities; one-hot for labelled rows.

    Notes
    -----
    With a transductive method, the default, **each call of predict is one query set**: the rows are answered together,
    and help or sway each other. Ask for all that belong together at once, and do not ask row by row. With an inductive
    one (``method="simpleshot"``) it makes no difference.

    With ``reject``, rows that are called unknown, which no method decides, are left out of the others' query set, and
    make one of their own. Where half of the queries are of other classes (5 classes of 5 items, 10 queries of each and
    10 of each of 5 other classes), UNEM answers 84.1, 88.6 and 93.8 % of the known ones right if all are asked
    together, 88.3, 92.7 and 98.1 % with ``reject=0.1``, and 92.5, 93.5 and 99.5 % if only the known ones are asked
    (MoCo, CUB, Omniglot features; 150 episodes).

    `fit` learns from all rows it is given; a label -1 there is a class like any other, as scikit-learn has it.
    `fit_predict` takes labelled rows and queries together.

    A method that takes image–text cosines (``n_cosines=``, ``inputs=cosines``) finds a class's column by its place in
    ``classes_``, so that columns are to be in that order.

    All of scikit-learn's checks pass but two. `check_methods_subset_invariance` asks that rows answered in parts have
    the answers of the whole, which is not so with a transductive method, by its nature (it passes with an inductive
    one). `check_fit_score_takes_y` calls `fit_predict` with a label for every row, which leaves nothing to answer.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.2]])
    >>> model = FewShotClassifier().fit(X, ["crow", "crow", "wren", "wren"])
    >>> model.predict([[0.2, 0.9], [0.8, 0.1], [0.1, 1.1]]).tolist()
    ['crow', 'wren', 'crow']
    >>> FewShotClassifier("simpleshot").fit_predict(X, ["crow", -1, "wren", -1]).tolist()
    ['crow', 'crow', 'wren', 'wren']
    """

    _fitted = "support_"

    def __init__(
        self,
        method: str | Method = DEFAULT_METHOD,
        *,
        reject: float | None = None,
        unknown: Hashable = None,
        max_queries: int = MAX_QUERIES,
    ) -> None:
        self.method = method
        self.reject = reject
        self.unknown = unknown
        self.max_queries = max_queries

    def fit(self, X: ArrayLike, y: Labels) -> Self:  # noqa: N803
        """Take in the support: the labelled items.

        Parameters
        ----------
        X : array or Tensor (n_support, n_features)
        y : array, Tensor or sequence (n_support,)
            A label for each row, of at least two classes.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is one class only, shapes do not match, features are not finite, or a setting is not known.

        Warns
        -----
        UserWarning
            If there are too few items for any row to be called unknown, or numbers from 0 come with -1.
        """
        features, labels = read_labelled(self, X, y)
        warn_of_queries(labels)
        return self._learn(features, labels)

    def fit_predict(self, X: ArrayLike, y: Labels) -> Any:  # noqa: N803
        """Learn from the rows with a label and answer the others, as one query set.

        Parameters
        ----------
        X : array or Tensor (n, n_features)
        y : array, Tensor or sequence (n,)
            A label for each row; -1, "-1" or None for a query.

        Returns
        -------
        array or Tensor (n,)
            ``transduction_``: the label of each row, those that were given as they were.

        Raises
        ------
        ValueError
            As `fit` has it; and if no row is a query.
        """
        features, labels = read_labelled(self, X, y, has_queries=True)
        is_query = torch.tensor([is_missing(label) for label in labels])
        if not bool(is_query.any()):
            raise ValueError("fit_predict needs rows to answer, got a label for every row: mark these by -1 in y")
        rows, asked = (torch.nonzero(part)[:, 0].to(features.device) for part in (~is_query, is_query))
        self._learn(features[rows], [label for label in labels if not is_missing(label)])
        shares = torch.zeros((len(features), len(self.classes_)), dtype=self.dtype_, device=features.device)
        shares[rows, self.support_labels_] = 1
        shares[asked] = self._log_probs(features[asked]).exp()
        positions = shares.argmax(-1)
        positions[asked] = self._answered(features[asked], positions[asked])
        self.label_distributions_ = like(X, shares)
        self.transduction_ = self._named(X, positions)
        return self.transduction_

    def predict(self, X: ArrayLike) -> Any:  # noqa: N803
        """Name the class of each row; with a transductive method, of all rows together.

        Returns
        -------
        array or Tensor (n,)
            Labels; a tensor where features and labels can be one.
        """
        features = self._queries(X)
        return self._named(X, self._answered(features, self._log_probs(features).argmax(-1)))

    def predict_proba(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return how likely each class is, by the method, given that it is one of them.

        Returns
        -------
        array or Tensor (n, n_classes)
            Not negative, rows sum to 1, those that `predict` calls unknown too. Not calibrated: a confidence, not a
            frequency.
        """
        return like(X, self._log_probs(self._queries(X)).exp())

    def predict_log_proba(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return the logarithm of `predict_proba`, (n, n_classes), exact where that is 0."""
        return like(X, self._log_probs(self._queries(X)))

    def known_p_values(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return the share of items of known classes that lie as far from every class or farther.

        Returns
        -------
        array or Tensor (n,)
            In (0, 1]; small for rows of no known class. Does not depend on the method or on the other rows.
        """
        return like(X, self._p_values(self._queries(X)))

    def score(self, X: ArrayLike, y: Labels, sample_weight: npt.ArrayLike | None = None) -> float:  # noqa: N803
        """Return the accuracy of `predict` on the rows, weighted if asked; labels of any kind are compared as such.

        Raises
        ------
        ValueError
            If there is not one label per row, or none is of a kind that the classes have, such as numbers for names.
        """
        wanted = listed(raveled(y))
        self._check_kinds(wanted)
        found = listed(self.predict(X))
        if len(wanted) != len(found):
            raise ValueError(f"X has {len(found)} rows and y {len(wanted)} labels: give one label per row")
        is_right = np.array([one == other for one, other in zip(found, wanted, strict=True)], dtype=float)
        return float(np.average(is_right, weights=None if sample_weight is None else np.asarray(sample_weight)))

    def _check_kinds(self, labels: list[Hashable]) -> None:
        """Refuse labels that no class can equal."""
        given, known = ({_kind(label) for label in names} for names in (labels, self.classes_.tolist()))
        if given.isdisjoint(known):
            raise ValueError(
                f"y holds {' and '.join(sorted(given))}, and the classes are {' and '.join(sorted(known))}: give "
                "labels of the kind that the classifier was fitted on"
            )

    def _learn(self, features: Tensor, labels: list[Hashable]) -> Self:
        names = in_order(list(dict.fromkeys(labels)))
        if len(names) < 2:
            raise ValueError(
                f"at least two classes are needed to choose between, got {len(names)} class"
                f"{f', {names[0]!r}' if names else 'es: no row has a label'}: give labelled items of another"
            )
        self.method_ = build_method(self.method) if isinstance(self.method, str) else self.method
        check_class_columns(self.method_, features.shape[1], len(names))
        self.is_transductive_ = self.method_.is_transductive
        self.classes_ = label_array(names)
        position = {name: index for index, name in enumerate(names)}
        self.support_ = features
        self.support_labels_ = torch.tensor([position[label] for label in labels], device=features.device)
        self.dtype_ = features.dtype
        self.calibration_scores_ = calibration_scores(features, self.support_labels_, len(names))
        self._check_reject()
        return self

    def _check_reject(self) -> None:
        if self.reject is None:
            return
        if not 0 < self.reject < 1:
            raise ValueError(
                "reject must lie in (0, 1), the share of known items that may be called unknown, or be None for none, "
                f"got {self.reject}"
            )
        with_unknown(self.classes_, self.unknown)
        least = smallest_share(self.calibration_scores_)
        if not is_rejected(least, self.reject):
            n = int((self.calibration_scores_ > -torch.inf).sum())
            warnings.warn(
                f"no row can be called unknown at reject={self.reject:g}: {n} labelled items of classes with two or "
                f"more calibrate it, which allow 1/{n + 1} at least: give more items, or a larger share",
                stacklevel=3,
            )

    def _queries(self, X: ArrayLike) -> Tensor:  # noqa: N803
        check_is_fitted(self, self._fitted)
        if isinstance(X, Tensor) and len(X) == 0:
            raise ValueError("no rows to answer: X must hold at least one query, got 0")
        return super()._queries(X)

    def _log_probs(self, features: Tensor) -> Tensor:
        """Answer rows; those that are called unknown apart from the others."""
        is_unknown = self._is_unknown(features)
        answers = features.new_empty((len(features), len(self.classes_)))
        own = (self.method_, self.support_, self.support_labels_)
        for rows in (torch.nonzero(part)[:, 0] for part in (is_unknown, ~is_unknown)):
            if len(rows):
                answers[rows] = answer_queries(*own, features[rows], len(self.classes_), max_queries=self.max_queries)
        return answers

    def _is_unknown(self, features: Tensor) -> Tensor:
        if self.reject is None:
            return features.new_zeros(len(features), dtype=torch.bool)
        return is_rejected(self._p_values(features), self.reject)

    def _p_values(self, features: Tensor) -> Tensor:
        own = (self.support_, self.support_labels_, len(self.classes_))
        scores = torch.cat([nonconformity(rows, *own) for rows in torch.split(features, self.max_queries)])
        return known_p_values(scores, self.calibration_scores_)

    def _answered(self, features: Tensor, positions: Tensor) -> Tensor:
        """Return positions in the names, one past the classes for unknown rows."""
        return positions.masked_fill(self._is_unknown(features), len(self.classes_))

    def _named(self, X: ArrayLike, positions: Tensor) -> Any:  # noqa: N803
        return named(X, self.classes_ if self.reject is None else with_unknown(self.classes_, self.unknown), positions)

    def _device(self) -> torch.device:
        return self.support_.device


def _kind(label: Hashable) -> str:
    if isinstance(label, str):
        return "text"
    return "numbers" if isinstance(label, (bool, int, float)) else f"{type(label).__name__} objects"
