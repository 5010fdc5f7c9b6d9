"""Linear discriminant analysis, one item at a time and yet exact."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.checks import check_choice, check_positive
from fewshot.incremental.covariance_classifier import CovarianceClassifier
from fewshot.incremental.covariances import cholesky_factor, diagonal_shrinkage

__all__ = ["PRIORS", "StreamingLDA"]

PRIORS = ("uniform", "empirical")


class _Whitened(NamedTuple):
    """The class means where the common covariance is the identity."""

    center: Tensor
    whitening: Tensor
    means: Tensor
    offsets: Tensor


class StreamingLDA(CovarianceClassifier):
    """Linear discriminant analysis: one mean per class, one covariance for all, both exact at any time.

    With Λ the inverse of (1 - ε) Σ + ε (trΣ / d) I and Σ the scatter within classes over n - n_classes, the score of a
    class is -½ (x - μ_c)ᵀ Λ (x - μ_c) + ln π_c, which is xᵀΛμ_c - ½ μ_cᵀΛμ_c + ln π_c up to a term of x alone.

    Parameters
    ----------
    shrinkage : float
        ε, in [0, 1]; 1e-4 in the original. 0 needs more items than features.
    prior : {"uniform", "empirical"}
        Whether a class's share π_c of the items counts; few-shot classes lose by it.
    logit_scale : float
        Multiplies scores in `predict_proba`; at 1 these are the posteriors of the Gaussian model.

    Notes
    -----
    In whatever order and parts items come, the result is that of all of them at once, up to rounding. Class means move
    with their own class only, but Σ with every class that has two items. As long as none has, Σ is the identity.

    `remove_class` forgets a mean and a count. The class's scatter stays in Σ, as a sum does not know its parts; what it
    says of the common covariance remains true.

    Differs from the authors' code, and why:

    - Σ is exact. There, the first item of a class is centered on zero, and items are weighted by the count of all items
      in place of their class's: on 20 classes of 5 shots the trace is ten times too large and depends on the order.
    - ε is relative to the mean variance, as in scikit-learn; ε I makes the result depend on the features' unit.
    - A Cholesky factor, not ``pinv``: a singular Σ is an error, not an answer.
    - Only classes that were learned have a score. There, one that was not scores 0, and wins where all others are
      negative.
    - The score is a distance, so that it says how far a row is from every class; xᵀΛμ_c does not.

    Source
    ------
    Hayes and Kanan, "Lifelong machine learning with deep streaming linear discriminant analysis", CVPR workshops 2020.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0, 0.0], [0.0, 2.0], [1.0, 0.0], [1.0, 2.0]])
    >>> model = StreamingLDA().fit(X, ["crow", "crow", "wren", "wren"])
    >>> model.partial_fit(np.array([[2.0, 9.0]]), ["tit"]).predict(np.array([[0.4, 9.0], [1.9, 0.0]])).tolist()
    ['crow', 'tit']
    """

    def __init__(self, shrinkage: float = 1e-4, prior: str = "uniform", logit_scale: float = 1.0) -> None:
        self.shrinkage = shrinkage
        self.prior = prior
        self.logit_scale = logit_scale

    def _check_settings(self) -> None:
        check_choice("prior", self.prior, PRIORS)
        check_positive("logit_scale", self.logit_scale)
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must lie in [0, 1], got {self.shrinkage}")

    def _scores(self, features: Tensor) -> Tensor:
        known = self._whitened()
        rows = (features.to(self.dtype_) - known.center) @ known.whitening.mT
        return torch.addmm(known.offsets, rows, known.means.mT) - 0.5 * rows.square().sum(1, keepdim=True)

    def _whitened(self) -> _Whitened:
        if "whitened" not in self._table:
            self._table["whitened"] = _Whitened(*(tensor.to(self.dtype_) for tensor in self._solve()))
        whitened: _Whitened = self._table["whitened"]
        return whitened

    def _solve(self) -> _Whitened:
        """Factor the covariance, in float64."""
        covariance = diagonal_shrinkage(self._statistics.pooled(), self.shrinkage)
        factor = cholesky_factor(covariance, "set shrinkage above 0")
        whitening = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
        means, counts = self._statistics.means(), self._statistics.counts
        center = means.mean(0)
        means = (means - center) @ whitening.mT
        offsets = -0.5 * means.square().sum(1)
        if self.prior == "empirical":
            offsets = offsets + (counts / counts.sum()).log()
        return _Whitened(center, whitening, means, offsets)
