"""Linear probes: one score a class, linear in the features; support vector machines that learn them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.checks import check_choice, check_positive
from fewshot.probing.inputs import check_labels, check_rows, check_same_width, widened

__all__ = [
    "LOSSES",
    "MULTI_CLASS",
    "REDUCTIONS",
    "LinearProbe",
    "LinearSVM",
    "flatten_views",
    "pairwise_votes",
    "reduce_views",
]

LOSSES = ("hinge", "squared-hinge")
MULTI_CLASS = ("one-vs-rest", "one-vs-one")
REDUCTIONS = ("sum", "max", "mean")


@dataclass(frozen=True, slots=True, eq=False)
class LinearProbe:
    """A fitted linear classifier: margins w·x + b, and the scores of the classes.

    Attributes
    ----------
    weights : Tensor (n_problems, n_features), float64
    bias : Tensor (n_problems,), float64
    n_classes : int
    is_one_vs_one : bool
        Each problem is a pair of classes (0, 1), (0, 2), ..., (1, 2), ..., its margin positive for the second; else
        each is a class.

    Examples
    --------
    >>> probe = LinearProbe(torch.eye(3).double(), torch.tensor([0.0, 0.0, 0.5]).double(), n_classes=3)
    >>> probe(torch.tensor([[1.0, 0.25, 0.0]])).tolist()
    [[1.0, 0.25, 0.5]]
    """

    weights: Tensor
    bias: Tensor
    n_classes: int
    is_one_vs_one: bool = False

    def __call__(self, features: Tensor) -> Tensor:
        """Return scores (..., n_classes) of features (..., n_features): the highest is the answer."""
        return self._scores(self.margins(features))

    def view_scores(self, features: Tensor, reduce: str = "sum") -> Tensor:
        """Score items that come in several views, by their margins' sum, largest or mean.

        Parameters
        ----------
        features : Tensor (..., n_views, n_features)
        reduce : {"sum", "max", "mean"}
            [OTS] takes the sum, and finds it better than the largest.

        Returns
        -------
        Tensor (..., n_classes)
        """
        return self._scores(reduce_views(self.margins(features), reduce))

    def margins(self, features: Tensor) -> Tensor:
        """Return w·x + b, shape (..., n_problems), of features (..., n_features), in their dtype and on their device.

        Raises
        ------
        ValueError
            If the features are of another width than those learned from.
        """
        x = check_same_width("features", widened(features), self.weights.shape[1])
        return x @ self.weights.to(x).mT + self.bias.to(x)

    def _scores(self, margins: Tensor) -> Tensor:
        return _vote_scores(margins, self.n_classes) if self.is_one_vs_one else margins


@dataclass(frozen=True, slots=True)
class LinearSVM:
    """A linear support vector machine, solved by liblinear through scikit-learn.

    ::

        min_w  ½ ‖w‖² + C Σ_i loss(y_i (w·x_i + b)),   loss(m) = max(0, 1 - m)  or its square

    Parameters
    ----------
    c
        C. It belongs to the scale of the features (a · x needs C / a²): [OTS] takes 2 for MIT-67, CUB and Flowers and
        0.2 for VOC07, H3D and UIUC, on features of unit norm.
    loss
        ``hinge`` is what [OTS] writes. ``squared-hinge`` is the only loss that the solver it names for augmented data
        has, and VISSL's.
    multi_class
        ``one-vs-rest``, or ``one-vs-one`` with voting: [OTS] for sets of one label an item.
    has_bias
        Learn b; liblinear penalises it as a weight. The equation of [OTS] has none.
    tolerance, max_iter
        When the solver stops: scikit-learn's and VISSL's defaults.

    Raises
    ------
    ValueError
        If ``c`` is not positive or a word is unknown.

    Notes
    -----
    The losses are summed: all rows twice and C / 2 give the same answer. The order of the rows matters only within the
    tolerance; the solver's own coin has a fixed seed.

    Source
    ------
    [OTS] Classification.

    Examples
    --------
    >>> features, labels = torch.tensor([[0.0, 1.0], [0.1, 0.9], [1.0, 0.1], [0.8, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> LinearSVM(c=10.0).fit(features, labels)(features).argmax(-1).tolist()
    [0, 0, 1, 1]
    """

    c: float = 1.0
    loss: str = "squared-hinge"
    multi_class: str = "one-vs-rest"
    has_bias: bool = True
    tolerance: float = 1e-4
    max_iter: int = 2000

    def __post_init__(self) -> None:
        check_positive("c", self.c)
        check_choice("loss", self.loss, LOSSES)
        check_choice("multi_class", self.multi_class, MULTI_CLASS)

    def fit(self, features: Tensor, labels: Tensor) -> LinearProbe:
        """Learn from labelled rows.

        Parameters
        ----------
        features : Tensor (n, n_features)
        labels : Tensor (n,), integer
            0, 1, ..., each at least once.

        Raises
        ------
        TypeError, ValueError
            If features or labels are not so.
        """
        features = check_rows("features", features)
        n_classes = check_labels(labels, len(features))
        is_one_vs_one = self.multi_class == "one-vs-one"
        weights, bias = self._solve(as_float64(features), labels.cpu().numpy(), is_one_vs_one)
        if n_classes == 2 and not is_one_vs_one:
            weights, bias = np.concatenate([-weights, weights]), np.concatenate([-bias, bias])
        return LinearProbe(torch.from_numpy(weights), torch.from_numpy(bias), n_classes, is_one_vs_one)

    def describe(self) -> str:
        """Describe the settings in one line."""
        bias = "" if self.has_bias else ", no bias"
        return f"linear SVM, {self.loss} loss, {self.multi_class}, C = {self.c:g}{bias}"

    def _solve(
        self, features: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], is_one_vs_one: bool
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        from sklearn.multiclass import OneVsOneClassifier
        from sklearn.svm import LinearSVC

        machine = LinearSVC(
            C=self.c,
            loss=self.loss.replace("-", "_"),
            fit_intercept=self.has_bias,
            tol=self.tolerance,
            max_iter=self.max_iter,
            random_state=0,
        )
        machines = (
            OneVsOneClassifier(machine).fit(features, labels).estimators_
            if is_one_vs_one
            else [machine.fit(features, labels)]
        )
        bias = [np.broadcast_to(solved.intercept_, len(solved.coef_)) for solved in machines]
        return np.concatenate([solved.coef_ for solved in machines]), np.concatenate(bias)


def flatten_views(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Make a row of every view, each with its item's label: how [OTS] trains on augmented data.

    Parameters
    ----------
    features : Tensor (n, n_views, n_features)
    labels : Tensor (n,)

    Returns
    -------
    Tensor (n · n_views, n_features)
    Tensor (n · n_views,)
    """
    return features.flatten(0, 1), labels.repeat_interleave(features.shape[1])


def reduce_views(margins: Tensor, reduce: str = "sum") -> Tensor:
    """Turn margins (..., n_views, n_problems) into (..., n_problems) by their sum, largest or mean over the views.

    Raises
    ------
    ValueError
        If ``reduce`` is none of "sum", "max", "mean".
    """
    check_choice("reduction of views", reduce, REDUCTIONS)
    return margins.amax(-2) if reduce == "max" else getattr(margins, reduce)(-2)


def pairwise_votes(margins: Tensor, n_classes: int) -> Tensor:
    """Count how many of its pairs each class wins.

    Parameters
    ----------
    margins : Tensor (..., n_classes · (n_classes - 1) / 2)
        Of the pairs (0, 1), (0, 2), ..., (1, 2), ...: positive for the second, else the first wins.
    n_classes : int

    Returns
    -------
    Tensor (..., n_classes)
        Whole numbers that sum to the number of pairs, in the dtype of ``margins``.

    Examples
    --------
    >>> pairwise_votes(torch.tensor([0.5, -0.5, -2.0]), 3).tolist()
    [1.0, 2.0, 0.0]
    """
    first, second = torch.triu_indices(n_classes, n_classes, 1, device=margins.device)
    winners = torch.where(margins > 0, second, first)
    votes = margins.new_zeros((*margins.shape[:-1], n_classes))
    return votes.scatter_add(-1, winners, torch.ones_like(margins))


def _vote_scores(margins: Tensor, n_classes: int) -> Tensor:
    """Return votes, ties broken by the sum of a class's margins, mapped to (-1/3, 1/3)."""
    first, second = torch.triu_indices(n_classes, n_classes, 1, device=margins.device)
    totals = margins.new_zeros((*margins.shape[:-1], n_classes))
    totals = totals.index_add(-1, second, margins).index_add(-1, first, -margins)
    return pairwise_votes(margins, n_classes) + totals / (3 * (totals.abs() + 1))


def as_float64(features: Tensor) -> npt.NDArray[np.float64]:
    """Return features as the solvers take them."""
    return features.detach().cpu().double().numpy()
