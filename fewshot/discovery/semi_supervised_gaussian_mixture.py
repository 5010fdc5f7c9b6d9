"""Semi-supervised Gaussian mixture as an estimator."""

from __future__ import annotations

import math
import warnings
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewshot.checks import check_choice, check_non_negative
from fewshot.discovery.estimator import found_names
from fewshot.discovery.kmeans import semi_supervised_kmeans
from fewshot.discovery.mixture.fit import fit_mixture
from fewshot.discovery.mixture.start import state_from_means, state_from_partition
from fewshot.discovery.mixture.state import MixtureState, assign, log_responsibilities
from fewshot.estimators.arrays import ArrayLike, like, read_features
from fewshot.estimators.labelled_rows import Labels, read_partial_labels
from fewshot.estimators.labels import label_array

__all__ = ["SemiSupervisedGaussianMixture"]

# scikit-learn's names of the covariance types, and ours.
_FORMS = {"full": "full", "tied": "tied", "diag": "diagonal", "spherical": "spherical", "low-rank": "low-rank"}


class SemiSupervisedGaussianMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Gaussian mixture fitted by EM to rows of which some are labelled; without labels, scikit-learn's GaussianMixture.

    A labelled row belongs to the component of its class; an unlabelled one has responsibilities
    ``r_ik = π_k N(x_i | μ_k, Σ_k) / Σ_j π_j N(x_i | μ_j, Σ_j)``. EM maximises

        Σ_labelled log π_y N(x | μ_y, Σ_y) + Σ_unlabelled log Σ_k π_k N(x | μ_k, Σ_k).

    The first components are the labelled classes, in sorted order; the others are found.

    Parameters
    ----------
    n_components : int, optional
        Components, those of the labelled classes included. Default: one for each labelled class, 1 without labels.
    covariance_type : {"full", "tied", "diag", "spherical", "low-rank"}
        As in scikit-learn; "low-rank" is ``W_k W_kᵀ + diag(ψ_k)``, a mixture of factor analyzers.
    rank : int
        Columns of W_k, for "low-rank". Default 1.
    tol : float
        EM stops when the objective changes by less than this per row, in nats. Default 1e-3, as in scikit-learn.
    reg_covar : float
        Added to every variance, not negative. Default 1e-6, as in scikit-learn.
    max_iter : int
        Most EM iterations. Default 100, as in scikit-learn.
    n_init : int
        Runs of the semi-supervised k-means that gives the start; the one of lowest inertia is used. Default 1.
    weights_init, means_init, precisions_init : array or Tensor, optional
        The start, or parts of it, in scikit-learn's shapes; rows in the order of the components. Where ``means_init``
        is given the rest is estimated from the rows nearest to each mean instead of from k-means.
    random_state : int
        Seed of k-means.

    Attributes
    ----------
    weights_ : array or Tensor (n_components,), float64
        Sum to 1.
    means_ : array or Tensor (n_components, n_features), float64
    covariances_ : array or Tensor, float64
        As in scikit-learn: (k, d, d) full, (d, d) tied, (k, d) diag, (k,) spherical; (k, d, rank + 1) low-rank: the
        columns of W_k, then ψ_k.
    converged_ : bool
    n_iter_ : int
        EM iterations done.
    lower_bound_ : float
        The objective per row, in nats, before the last M-step, as in scikit-learn.
    labels_ : array or Tensor (n,), int64
        The most probable component of each row of the pool; a labelled row has its own.
    classes_ : ndarray (n_components,)
        Names of the components: those of the labelled classes, then new ones.
    n_known_ : int
        Labelled classes.
    n_features_in_ : int

    Notes
    -----
    The same iterations as scikit-learn's: from the same start and without labels the same result, up to rounding. While
    fitting, rows are read a chunk at a time and no matrix of rows × components is held. Rows are standardized inside,
    so that float32 keeps its digits far from 0.
    A component that ends without rows keeps its mean and covariance.

    Source
    ------
    Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm", 1977; labelled rows as in
    Nigam et al., "Text classification from labeled and unlabeled documents using EM", Machine Learning 39, 2000.

    Examples
    --------
    >>> rows = torch.tensor([[0.0], [0.2], [0.4], [5.0], [5.2], [5.4]])
    >>> model = SemiSupervisedGaussianMixture(n_components=2).fit(rows, ["crow", -1, -1, -1, -1, -1])
    >>> model.classes_[model.predict(rows)].tolist()
    ['crow', 'crow', 'crow', 'new-01', 'new-01', 'new-01']
    >>> model.means_.flatten().round(decimals=4).tolist()
    [0.2, 5.2]
    >>> one = SemiSupervisedGaussianMixture(n_components=1).fit(rows)
    >>> model.bic(rows) < one.bic(rows)
    True
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        covariance_type: str = "full",
        rank: int = 1,
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        weights_init: ArrayLike | None = None,
        means_init: ArrayLike | None = None,
        precisions_init: ArrayLike | None = None,
        random_state: int = 0,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.rank = rank
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Labels | None = None) -> Self:  # noqa: N803
        """Fit the mixture by EM.

        Parameters
        ----------
        X : array or Tensor (n, n_features)
        y : array, Tensor or sequence (n,), optional
            The label of each row, of any hashable kind; -1, "-1" or None for an unlabelled row. Default: none is
            labelled.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If shapes do not match, features are not finite, a setting is out of range, or there are fewer components
            than labelled classes or more than rows.

        Warns
        -----
        ConvergenceWarning
            If EM did not converge in ``max_iter`` iterations.
        """
        features = read_features(self, X, reset=True)
        names, labels = read_partial_labels(y, len(features), features.device)
        form, n_components = self._form(), self._n_components(len(names), len(features))
        self._check_settings()
        start = self._start(features, labels, n_components, form)
        settings = {"form": form, "covariance_floor": self.reg_covar, "drop_empty": False}
        found = fit_mixture(features, labels, start, n_steps=self.max_iter - 1, tolerance=self.tol, **settings)  # type: ignore[arg-type]
        last = fit_mixture(features, labels, found.state, n_steps=1, tolerance=0, **settings)  # type: ignore[arg-type]
        self._state = last.state
        self.weights_, self.means_ = like(X, last.state.log_weights.exp()), like(X, last.state.means)
        self.covariances_ = like(X, last.state.covariances)
        self.labels_ = like(X, last.labels)
        self.converged_, self.n_iter_ = found.is_converged, len(found.objective)
        self.lower_bound_ = float(found.objective[-1]) / len(features)
        self.n_known_ = len(names)
        self.classes_ = label_array([*names, *found_names(names, n_components - len(names))])
        self._warn_unless_converged()
        return self

    def fit_predict(self, X: ArrayLike, y: Labels | None = None) -> Any:  # noqa: N803
        """Return ``labels_`` after `fit`."""
        return self.fit(X, y).labels_

    def predict(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return the most probable component (n,), int64, of each row; ``classes_`` has the names."""
        return like(X, self._assignment(X).components)

    def predict_proba(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return the responsibilities (n, n_components): not negative, rows sum to 1."""
        return like(X, log_responsibilities(self._queries(X), self._state, form=self._form()).exp())

    def score_samples(self, X: ArrayLike) -> Any:  # noqa: N803
        """Return the log-density log p(x) (n,) of each row under the mixture, in nats."""
        return like(X, self._assignment(X).log_densities)

    def score(self, X: ArrayLike, y: object = None) -> float:  # noqa: N803
        """Return the mean log-density of the rows; ``y`` is ignored."""
        return float(self._assignment(X).log_densities.double().mean())

    def bic(self, X: ArrayLike) -> float:  # noqa: N803
        """Return the Bayesian information criterion ``-2 log L + p log n`` of the rows: lower is better."""
        n = len(self._queries(X))
        return -2 * n * self.score(X) + self._n_parameters() * math.log(n)

    def aic(self, X: ArrayLike) -> float:  # noqa: N803
        """Return Akaike's information criterion ``-2 log L + 2 p`` of the rows: lower is better."""
        return -2 * len(self._queries(X)) * self.score(X) + 2 * self._n_parameters()

    def _form(self) -> str:
        return _FORMS[check_choice("covariance_type", self.covariance_type, tuple(_FORMS))]

    def _n_components(self, n_known: int, n_rows: int) -> int:
        n_components = max(1, n_known) if self.n_components is None else self.n_components
        if n_components < max(1, n_known):
            raise ValueError(
                f"n_components must be at least 1 and the number of labelled classes, {n_known}, got {n_components}: "
                "count the labelled classes too"
            )
        if n_components > n_rows:
            raise ValueError(
                f"n_components={n_components} needs as many rows, got n_samples={n_rows}: give fewer components"
            )
        return n_components

    def _check_settings(self) -> None:
        check_non_negative("tol", self.tol)
        check_non_negative("reg_covar", self.reg_covar)
        if self.max_iter < 1:
            raise ValueError(f"max_iter must be at least 1, got {self.max_iter}")
        if self.covariance_type == "low-rank" and self.precisions_init is not None:
            raise ValueError("precisions_init has no low-rank form: give means_init or weights_init alone")

    def _start(self, features: Tensor, labels: Tensor, n_components: int, form: str) -> MixtureState:
        """Estimate the start from k-means or the given means, then replace the parts that are given."""
        settings = {"form": form, "rank": self.rank, "covariance_floor": self.reg_covar}
        if self.means_init is None:
            generator = torch.Generator().manual_seed(self.random_state)
            clusters = semi_supervised_kmeans(
                features, labels, n_components, generator=generator, n_init=self.n_init
            ).labels
            start = state_from_partition(features, clusters, n_components, **settings)  # type: ignore[arg-type]
        else:
            means = _given("means_init", self.means_init, (n_components, features.shape[1]), features.device)
            start = state_from_means(features, labels, means, **settings)._replace(means=means)  # type: ignore[arg-type]
        if self.weights_init is not None:
            weights = _given("weights_init", self.weights_init, (n_components,), features.device)
            start = start._replace(log_weights=weights.log())
        if self.precisions_init is not None:
            shape = tuple(start.covariances.shape)
            precisions = _given("precisions_init", self.precisions_init, shape, features.device)
            is_matrix = form in ("tied", "full")
            start = start._replace(covariances=torch.linalg.inv(precisions) if is_matrix else precisions.reciprocal())
        return start

    def _warn_unless_converged(self) -> None:
        if not self.converged_:
            warnings.warn(
                f"EM did not converge in max_iter={self.max_iter} iterations: raise max_iter or tol",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _queries(self, X: ArrayLike) -> Tensor:  # noqa: N803
        check_is_fitted(self, "means_")
        return read_features(self, X, reset=False).to(self._state.means.device)

    def _assignment(self, X: ArrayLike) -> Any:  # noqa: N803
        return assign(self._queries(X), self._state, form=self._form())

    def _n_parameters(self) -> int:
        """Return the number of free parameters."""
        k, d = self._state.means.shape
        n_covariances = {
            "full": k * d * (d + 1) // 2,
            "tied": d * (d + 1) // 2,
            "diag": k * d,
            "spherical": k,
            "low-rank": k * (d * (self.rank + 1) - self.rank * (self.rank - 1) // 2),
        }
        return n_covariances[self.covariance_type] + k * d + k - 1


def _given(name: str, values: ArrayLike, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return a part of the start as float64, checked."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values, dtype=np.float64))
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    return tensor.to(device, torch.float64)
