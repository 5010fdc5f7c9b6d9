"""Distribution calibration: the base classes lend each shot their spread, and a classifier is fitted to the draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewshot.checks import check_non_negative, check_positive
from fewshot.incremental.covariance_classifier import CovarianceClassifier
from fewshot.incremental.covariances import ClassScatters, check_tukey, check_tukey_power, tukey_transform

__all__ = ["DistributionCalibration", "calibrated_means", "nearest_base"]


def nearest_base(support: Tensor, base_means: Tensor, n_nearest: int) -> Tensor:
    """Find the base classes nearest to each shot, by Euclidean distance.

    Parameters
    ----------
    support : Tensor (n_support, n_features)
    base_means : Tensor (n_base, n_features)
    n_nearest : int
        All base classes if there are fewer.

    Returns
    -------
    Tensor (n_support, min(n_nearest, n_base)), int64
        Positions in ascending order.

    Examples
    --------
    >>> nearest_base(torch.tensor([[1.0]]), torch.tensor([[2.0], [9.0], [0.5]]), 2)
    tensor([[0, 2]])
    """
    distances = torch.cdist(support, base_means, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.topk(min(n_nearest, len(base_means)), largest=False).indices.sort(1).values


def calibrated_means(support: Tensor, base_means: Tensor, nearest: Tensor) -> Tensor:
    """Average each shot with the means of its nearest base classes: (x + Σ_i μ_i) / (k + 1).

    Parameters
    ----------
    support : Tensor (n_support, n_features)
    base_means : Tensor (n_base, n_features)
    nearest : Tensor (n_support, k), int64
        Of `nearest_base`.

    Returns
    -------
    Tensor (n_support, n_features)

    Source
    ------
    [DC], and its released code.

    Examples
    --------
    >>> calibrated_means(torch.tensor([[1.0]]), torch.tensor([[2.0], [9.0], [3.0]]), torch.tensor([[0, 2]]))
    tensor([[2.]])
    """
    return (support + base_means[nearest].sum(1)) / (nearest.shape[1] + 1)


class _Regression(NamedTuple):
    weights: Tensor
    biases: Tensor
    n_iter: int


class DistributionCalibration(CovarianceClassifier):
    """Logistic regression on shots and on draws from a Gaussian about each, whose moments base classes lend.

    A shot x̃ of a new class gives N((x̃ + Σ_i μ_i) / (k + 1), mean_i Σ_i + spread · I), i running over the k base classes
    whose means are nearest; a base class gives N(μ_b, Σ_b).

    Parameters
    ----------
    n_nearest : int
        k; 2 in the original.
    spread : float
        α, added to the diagonal; 0.21 in the original.
    n_samples : int
        Draws for each class, shared by its shots; 750 in the original.
    tukey : float or None
        Power; 0.5 in the original. Needs features that are not negative: for others None.
    max_iter : int
        Of scikit-learn's LogisticRegression; 1000.
    random_state : int, RandomState or None
        Decides the draws.
    logit_scale : float
        Multiplies scores in `predict_proba`; at 1 these are the regression's own.

    Notes
    -----
    **Not incremental.** What is kept is: means and covariances of base classes (n_features² numbers each), shots of the
    others. The regression is fitted anew, to all classes, when it is next used after a change, which takes n_classes ·
    n_samples · n_features numbers and most of the time. Every class's scores change with it.

    Still the result does not depend on the order of arrival, up to rounding and the tolerance of the solver: before
    drawing, classes are put in order of their means, base classes first, and shots in order of their values.
    `remove_class` leaves nothing behind.

    A base class of one item borrows the covariance within all base classes. Without any base class, a shot's Gaussian
    is N(x̃, spread · I).

    Differs from the authors' code, and why:

    - ``spread`` is added to the diagonal; there, to every entry of the covariance, which widens one direction only.
    - Base statistics are those of x̃, as shots are; there, of raw features, which lie elsewhere.
    - Base classes are classified too, from draws of their own; there, an episode has new classes only.

    Source
    ------
    [DC] Yang, Liu and Xu, "Free lunch for few-shot learning: distribution calibration", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[4.0, 0.0], [4.0, 0.2], [0.0, 1.0], [0.1, 1.0]])
    >>> model = DistributionCalibration(n_samples=20).fit(X, ["crow", "crow", "wren", "wren"])
    >>> model.partial_fit(np.array([[9.0, 9.0]]), ["tit"]).predict(np.array([[8.0, 8.0], [5.0, 0.1]])).tolist()
    ['tit', 'crow']
    """

    _statistics: ClassScatters

    def __init__(
        self,
        n_nearest: int = 2,
        spread: float = 0.21,
        n_samples: int = 750,
        tukey: float | None = 0.5,
        max_iter: int = 1000,
        random_state: int | np.random.RandomState | None = 0,
        logit_scale: float = 1.0,
    ) -> None:
        self.n_nearest = n_nearest
        self.spread = spread
        self.n_samples = n_samples
        self.tukey = tukey
        self.max_iter = max_iter
        self.random_state = random_state
        self.logit_scale = logit_scale

    @property
    def n_iter_(self) -> int:
        """How many steps the regression took; it is fitted for that if need be."""
        check_is_fitted(self, "_index")
        return self._regression().n_iter

    def _check_settings(self) -> None:
        check_positive("n_nearest", self.n_nearest)
        check_non_negative("spread", self.spread)
        check_positive("n_samples", self.n_samples)
        check_tukey_power(self.tukey)
        check_positive("logit_scale", self.logit_scale)

    def _begin(self, n_features: int, dtype: torch.dtype, device: torch.device) -> None:
        super()._begin(n_features, dtype, device)
        self._support = torch.zeros((0, n_features), dtype=torch.float64, device=device)
        self._support_index = torch.zeros(0, dtype=torch.int64, device=device)
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))

    def _empty(self, n_features: int, device: torch.device) -> ClassScatters:
        return ClassScatters(n_features, device, base_only=True)

    def _placed(self, features: Tensor, *, reset: bool) -> Tensor:
        return super()._placed(check_tukey(features, self.tukey), reset=reset)

    def _learn(self, features: Tensor, index: Tensor, n_classes: int, *, base: bool) -> None:
        rows = tukey_transform(features.double(), self.tukey)
        super()._learn(rows, index, n_classes, base=base)
        is_new = ~self._is_base()[index]
        self._support = torch.cat([self._support, rows[is_new]])
        self._support_index = torch.cat([self._support_index, index[is_new]])

    def _forget(self, position: int) -> None:
        super()._forget(position)
        keep = self._support_index != position
        self._support, index = self._support[keep], self._support_index[keep]
        self._support_index = index - (index > position).long()

    def _class_state(self) -> dict[str, Tensor]:
        seed = torch.tensor(self._seed, device=self._device())
        own = {"support": self._support, "support_index": self._support_index, "seed": seed}
        return super()._class_state() | own

    def _set_state(self, tensors: dict[str, Tensor]) -> None:
        super()._set_state(tensors)
        self._support, self._support_index = tensors["support"].clone(), tensors["support_index"].clone()
        self._seed = int(tensors["seed"])

    def _scores(self, features: Tensor) -> Tensor:
        known = self._regression()
        rows = tukey_transform(features.to(self.dtype_), self.tukey)
        return torch.addmm(known.biases, rows, known.weights.mT)

    def _regression(self) -> _Regression:
        if "regression" not in self._table:
            self._table["regression"] = self._fit_regression()
        regression: _Regression = self._table["regression"]
        return regression

    def _fit_regression(self) -> _Regression:
        order = self._canonical_order()
        weights = self._support.new_zeros((len(order), self._support.shape[1]), dtype=self.dtype_)
        biases = weights[:, 0].clone()
        if len(order) == 1:
            return _Regression(weights, biases, 0)
        parts = list(self._draws(order))
        rows = torch.cat(parts).cpu().numpy()
        ranks = np.repeat(np.arange(len(order)), [len(part) for part in parts])
        fitted = LogisticRegression(max_iter=self.max_iter).fit(rows, ranks)
        coefficients, intercepts = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
        if len(order) == 2:  # one row, of the second class against the first
            coefficients = torch.cat([-0.5 * coefficients, 0.5 * coefficients])
            intercepts = torch.cat([-0.5 * intercepts, 0.5 * intercepts])
        weights[order], biases[order] = coefficients.to(weights), intercepts.to(biases)
        return _Regression(weights, biases, int(np.max(fitted.n_iter_)))

    def _canonical_order(self) -> list[int]:
        """Return the positions in an order that arrival does not change: base classes first, then by mean."""
        keys = torch.cat([self._statistics.means(), (~self._is_base()).double()[:, None]], 1)
        order: list[int] = np.lexsort(_columns(keys.roll(1, 1))).tolist()
        return order

    def _draws(self, order: list[int]) -> Iterator[Tensor]:
        """Yield the training rows of each class, (n, n_features): draws, and the shots of a new class."""
        generator = torch.Generator().manual_seed(self._seed)
        pooled, is_base = self._statistics.pooled(), self._is_base().tolist()
        base_means = self._statistics.means()[self._is_base()]
        base = torch.nonzero(self._is_base())[:, 0].tolist()
        for position in order:
            noise = torch.randn((self.n_samples, len(pooled)), generator=generator, dtype=torch.float64).to(pooled)
            if is_base[position]:
                root = _root(self._statistics.covariance(position, pooled))
                yield self._statistics.means()[position] + noise @ root.mT
            else:
                support = self._sorted_support(position)
                yield torch.cat([support, self._calibrated_draws(support, base_means, base, pooled, noise)])

    def _calibrated_draws(
        self, support: Tensor, base_means: Tensor, base: list[int], pooled: Tensor, noise: Tensor
    ) -> Tensor:
        """Return draws about shots: the noise is shared out among them, at least one row each."""
        each = max(1, self.n_samples // len(support))
        nearest = nearest_base(support, base_means, self.n_nearest)
        draws = noise.repeat(-(-each * len(support) // len(noise)), 1)[: each * len(support)]
        draws = draws.view(len(support), each, -1)
        padded = torch.nn.functional.pad(nearest, (1, 0))  # a column at least, where there is no base class
        sets, owners = torch.unique(padded, dim=0, return_inverse=True)
        roots = (self._lent_root([base[i] for i in chosen[1:]], pooled) for chosen in sets.tolist())
        spread = torch.empty_like(draws)
        for number, root in enumerate(roots):
            spread[owners == number] = draws[owners == number] @ root.mT
        return (calibrated_means(support, base_means, nearest)[:, None] + spread).flatten(0, 1)

    def _lent_root(self, positions: list[int], pooled: Tensor) -> Tensor:
        """Return a root of the mean covariance of base classes, widened."""
        covariance = torch.zeros_like(pooled)
        for position in positions:
            covariance += self._statistics.covariance(position, pooled) / len(positions)
        covariance.diagonal().add_(self.spread)
        return _root(covariance)

    def _sorted_support(self, position: int) -> Tensor:
        rows = self._support[self._support_index == position]
        return rows[np.lexsort(_columns(rows)).tolist()]


def _columns(rows: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the columns as keys for lexsort, whose last is the first to count."""
    return rows.mT.flip(0).cpu().numpy()


def _root(covariance: Tensor) -> Tensor:
    """Return A with A Aᵀ = covariance, which may be singular: the symmetric root, which rounding does not turn."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    return root
