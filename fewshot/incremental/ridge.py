"""Ridge regression on one-hot targets, as exact after a stream of items as on all of them: ACIL and GKEAL."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, Self

import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewshot.checks import check_choice, check_positive
from fewshot.incremental.estimator import ArrayLike, IncrementalClassifier, Labels
from fewshot.incremental.expansions import median_distance, rbf_features, relu_features
from fewshot.incremental.gram import GramStatistics, expanded_chunks

__all__ = ["EXPANSIONS", "RecursiveRidge", "RidgeClassifier", "RidgeState", "recursive_ridge_update"]

EXPANSIONS = ("none", "rbf", "relu")


class RidgeState(NamedTuple):
    """State of the recursion.

    Attributes
    ----------
    inverse_gram
        R = (G + λI)⁻¹, (..., n_features, n_features); I / λ before the first item.
    weights
        W = RQ, (..., n_features, n_classes); zeros before the first item.
    """

    inverse_gram: Tensor
    weights: Tensor


def recursive_ridge_update(state: RidgeState, features: Tensor, targets: Tensor) -> RidgeState:
    """Take items into a ridge regression without solving it anew.

    R' = R - R Xᵀ (I + X R Xᵀ)⁻¹ X R and W' = W + R' Xᵀ (Y - X W).

    Parameters
    ----------
    state : RidgeState
    features : Tensor (..., n, n_features)
        X.
    targets : Tensor (..., n, n_classes)
        Y; for a class that is new here, append a column of zeros to W first: earlier items were none of it.

    Returns
    -------
    RidgeState

    Notes
    -----
    In exact arithmetic, the ridge regression on all items, whatever their order and parts. `RecursiveRidge` keeps sums
    in place of R: rounding does not pile up in them, λ may be changed later, and items can be taken out.

    Source
    ------
    [ACIL], as its released code has it. There the inverse of I + X R Xᵀ is formed; here it is solved by
    Cholesky.

    Examples
    --------
    >>> state = RidgeState(torch.eye(2) / 0.5, torch.zeros(2, 1))
    >>> recursive_ridge_update(state, torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0]])).weights
    tensor([[2.0000],
            [0.0000]])
    """
    R, W, X, Y = *state, features, targets  # noqa: N806
    K = torch.eye(X.shape[-2]).to(X) + X @ R @ X.mT  # noqa: N806
    R = R - R @ X.mT @ torch.cholesky_solve(X @ R, torch.linalg.cholesky(K))  # noqa: N806
    return RidgeState(R, W + R @ X.mT @ (Y - X @ W))


class RidgeClassifier(IncrementalClassifier):
    """Base of classifiers by ridge regression on expanded features: sums, solved on use."""

    balanced: bool
    random_state: int

    def unlearn(self, X: ArrayLike, y: Labels) -> Self:  # noqa: N803
        """Take items out again, as if they had never come; a class without any left is forgotten.

        Parameters
        ----------
        X : array or Tensor (n, n_features)
            Rows that were learned.
        y : array, Tensor or sequence (n,)
            Their labels.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a label is not known, its class has fewer rows, or its last ones are not those that were learned. That
            rows were learned cannot be verified as long as others of their class are left.

        Notes
        -----
        What the base session fixed (kernel centers, a ridge chosen by ``auto``) stays.
        """
        check_is_fitted(self, "_index")
        features, labels = self._labelled(X, y, reset=False)
        unknown = [label for label in labels if label not in self._index]
        if unknown:
            raise ValueError(f"no class {unknown[0]!r} to unlearn: the {len(self._index)} known ones are in classes_")
        index = torch.tensor([self._index[label] for label in labels], device=features.device)
        self._statistics.subtract(features, index, self._expand)
        counts = dict(zip(self._index, self._statistics.classes.counts.tolist(), strict=True))
        for label in (label for label, count in counts.items() if count == 0):
            self.remove_class(label)
        return self

    @property
    def ridge_(self) -> float:
        """The λ in use."""
        check_is_fitted(self, "_index")
        return self._ridge()

    @abstractmethod
    def _check_settings(self) -> None:
        """Check the settings."""

    @abstractmethod
    def _prepare(self, features: Tensor, index: Tensor) -> None:
        """Set the constants of `_expand` from the first items, in ``self._fixed``."""

    @abstractmethod
    def _expand(self, features: Tensor) -> Tensor:
        """Return expanded features (n, n_expanded), float64."""

    @abstractmethod
    def _ridge(self) -> float:
        """Return λ."""

    def _head(self, expanded: Tensor, weights: Tensor) -> Tensor:
        """Return scores (n, n_classes) from expanded features (n, n_expanded) and weights (n_classes, n_expanded)."""
        return expanded @ weights.mT

    def _begin(self, n_features: int, dtype: torch.dtype, device: torch.device) -> None:
        self._check_settings()
        self._fixed: dict[str, Tensor] = {}
        self._statistics = GramStatistics(0, device)

    def _learn(self, features: Tensor, index: Tensor, n_classes: int, *, base: bool) -> None:
        if not self._statistics.n_expanded:
            self._set_up(features, index)
        self._statistics.add(features, index, n_classes, self._expand, base=base)

    def _set_up(self, features: Tensor, index: Tensor) -> None:
        self._prepare(features, index)
        n_groups = 2 if self.balanced else 1
        n_expanded = self._expand(features[:1]).shape[1]
        self._statistics = GramStatistics(n_expanded, features.device, n_groups=n_groups)

    def _forget(self, position: int) -> None:
        self._statistics.remove(position)

    def _scores(self, features: Tensor) -> Tensor:
        weights = self._statistics.weights(self._ridge())
        chunks = expanded_chunks(features, features, self._expand, self._statistics.n_expanded)
        return torch.cat([self._head(expanded, weights) for expanded, _ in chunks]).to(self.dtype_)

    def _is_base(self) -> Tensor:
        return self._statistics.classes.is_base

    def _class_state(self) -> dict[str, Tensor]:
        return self._statistics.tensors() | self._fixed

    def _set_state(self, tensors: dict[str, Tensor]) -> None:
        learned = self._statistics.tensors().keys()
        self._statistics.load({name: tensors[name] for name in learned})
        self._fixed = {name: tensor.clone() for name, tensor in tensors.items() if name not in learned}

    def _generator(self) -> torch.Generator:
        """Return a generator on the CPU, so that every device draws the same."""
        return torch.Generator().manual_seed(int(check_random_state(self.random_state).randint(2**31 - 1)))


class RecursiveRidge(RidgeClassifier):
    """Ridge regression on one-hot targets, of features as they are, of random ones (ACIL) or of a kernel's (GKEAL).

    Parameters
    ----------
    ridge : float
        λ; 0.1, the default of the original's command line.
    expansion : {"none", "rbf", "relu"}
        ``rbf`` compares with centers drawn from the base session's items: `rbf_features`, GKEAL. ``relu`` projects at
        random: `relu_features`, ACIL.
    n_expanded : int
        Expanded features; for ``rbf`` at most as many as there are base items. The original's 8192 take 0.5 GB for the
        sums, and thrice that while solving; 2000 take 32 MB.
    bandwidth : float or "median"
        σ of ``rbf``. The original's comfortable range is 5 to 15, for the features of its own networks; ``median`` is
        the median distance between centers, whatever the scale of the features.
    balanced : bool
        Let the base classes and the new ones count by the number of classes, not of items: see Notes.
    random_state : int
        Decides projection or centers.
    logit_scale : float
        Multiplies scores, near 0 or 1 for items learned, in `predict_proba`.

    Notes
    -----
    Equal to ridge regression without intercept on all items learned, in whatever order and parts they came: sums of φφᵀ
    and φ are all that is kept, in float64. The exception is ``rbf``, whose centers are drawn from the first call's
    items, be it `fit` or `partial_fit`: let the whole base session come in it. λ may be changed at any time by
    ``set_params(ridge=...)``.

    Every class's score depends on all items; adding a class changes those of others.

    ``remove_class`` forgets a class's targets; its items stay in the sum of φφᵀ as items of no class, since that sum is
    not kept class by class. With the items at hand, `unlearn` is exact.

    Balanced: with N items of C classes, N_g and C_g of them in the base session (or not), an item weighs
    N C_g / (C N_g). That is scikit-learn's ``balanced`` where base classes have as many items each, and so have the new
    ones, as in the usual protocol; within each of the two, items weigh alike. Weights by each class's own count would
    need the sum of φφᵀ of every class (AIR, arXiv 2408.10349, keeps them), or depend on the order of arrival. A common
    factor of all weights is one of λ: these average to 1, and the base session alone is as without.

    Different from the original: sums and a Cholesky factor in place of the recursion `recursive_ridge_update`, of which
    the result is the same; centers are drawn from all base items, where the original permutes the first ``n_expanded``
    alone; and with fewer items than ``n_expanded``, each is a center, where the original adds combinations of items
    under random weights, which may be of any size.

    Few-shot classes are scored low by a linear head, since nearly all items say that they are something else: see
    `RanPAC`.

    Source
    ------
    [ACIL], [GKEAL], and their released code, which trains the network on the base classes first.

    Examples
    --------
    >>> import numpy as np
    >>> model = RecursiveRidge().fit(np.array([[1.0, 0.0], [0.0, 1.0]]), ["crow", "wren"])
    >>> model.partial_fit(np.array([[-1.0, 0.1]]), ["tit"]).predict(np.array([[-2.0, 0.0], [0.1, 1.0]])).tolist()
    ['tit', 'wren']
    """

    def __init__(
        self,
        ridge: float = 0.1,
        expansion: str = "none",
        n_expanded: int = 2000,
        bandwidth: float | str = "median",
        balanced: bool = False,
        random_state: int = 0,
        logit_scale: float = 16.0,
    ) -> None:
        self.ridge = ridge
        self.expansion = expansion
        self.n_expanded = n_expanded
        self.bandwidth = bandwidth
        self.balanced = balanced
        self.random_state = random_state
        self.logit_scale = logit_scale

    @property
    def bandwidth_(self) -> float:
        """The σ in use, of ``rbf`` alone."""
        if "bandwidth" not in getattr(self, "_fixed", {}):
            raise AttributeError("bandwidth_ is there for expansion='rbf' alone, once the base session is learned")
        return float(self._fixed["bandwidth"])

    def _check_settings(self) -> None:
        check_positive("ridge", self.ridge)
        check_choice("expansion", self.expansion, EXPANSIONS)
        check_positive("n_expanded", self.n_expanded)
        check_positive("logit_scale", self.logit_scale)
        if isinstance(self.bandwidth, str):
            check_choice("bandwidth", self.bandwidth, ("median",))
        else:
            check_positive("bandwidth", self.bandwidth)

    def _prepare(self, features: Tensor, index: Tensor) -> None:
        n_items, n_features = features.shape
        if self.expansion == "relu":
            draws = torch.rand((n_features, self.n_expanded), dtype=torch.float64, generator=self._generator())
            self._fixed = {"projection": ((2 * draws - 1) / n_features**0.5).to(features.device)}
        if self.expansion == "rbf":
            drawn = torch.randperm(n_items, generator=self._generator())[: self.n_expanded]
            centers = features[drawn.to(features.device)].double()
            median = isinstance(self.bandwidth, str)
            bandwidth = median_distance(centers) if median else centers.new_tensor(float(self.bandwidth))
            self._fixed = {"centres": centers, "bandwidth": bandwidth}

    def _expand(self, features: Tensor) -> Tensor:
        if self.expansion == "relu":
            return relu_features(features.double(), self._fixed["projection"])
        if self.expansion == "rbf":
            return rbf_features(features.double(), self._fixed["centres"], self._fixed["bandwidth"])
        return features.double()

    def _ridge(self) -> float:
        return self.ridge
