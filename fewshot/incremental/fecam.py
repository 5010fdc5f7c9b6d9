"""FeCAM: each class has its own idea of distance."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fewshot.checks import check_choice, check_non_negative, check_positive
from fewshot.incremental.calibration import anchor_weights, calibrate_prototypes
from fewshot.incremental.covariance_classifier import CovarianceClassifier
from fewshot.incremental.covariances import (
    ClassScatters,
    PooledScatter,
    check_tukey,
    check_tukey_power,
    cholesky_factor,
    correlation,
    shrunk_covariance,
    tukey_transform,
    without,
)
from fewshot.prototypes import l2_normalize

__all__ = ["COVARIANCES", "FeCAM", "normalized_covariance"]

COVARIANCES = ("per-class", "common")

# Entries of rows, and covariances, that are held at a time.
_MAX_ENTRIES = 2**24
_MAX_COVARIANCES = 8


def normalized_covariance(covariance: Tensor, shrinkage: tuple[float, float], n_shrinks: int) -> Tensor:
    """Shrink a covariance ``n_shrinks`` times, then divide it by its standard deviations.

    Parameters
    ----------
    covariance : Tensor (n_features, n_features)
    shrinkage : tuple of two floats
        γ₁ and γ₂ of `shrunk_covariance`.
    n_shrinks : int

    Returns
    -------
    Tensor (n_features, n_features)
        Ones on its diagonal. Any positive factor of the covariance changes nothing.

    Source
    ------
    [FECAM], and its released code.

    Examples
    --------
    >>> normalized_covariance(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), (1.0, 0.0), 1)
    tensor([[1.0000, 0.2582],
            [0.2582, 1.0000]])
    """
    for _ in range(n_shrinks):
        covariance = shrunk_covariance(covariance, shrinkage)
    return correlation(covariance)


class FeCAM(CovarianceClassifier):
    """Nearest class mean by the Mahalanobis distance of unit vectors, each class with its own covariance.

    The score is -uᵀ R_c⁻¹ u with u = x̃ / ‖x̃‖ - μ_c / ‖μ_c‖, where x̃ is x raised to the power ``tukey``, μ_c the mean
    of its class's x̃, and R_c their covariance, shrunk and normalised by `normalized_covariance`.

    Parameters
    ----------
    covariance : {"per-class", "common"}
        ``common`` takes the covariance within all classes.
    tukey : float or None
        Power; 0.5 in the original. Needs features that are not negative: for others, such as a ViT's, None.
    shrinkage : tuple of two floats
        γ₁ and γ₂, what is added to the diagonal and to the rest, relative to their means; (1, 1) in the original for
        convolutional networks, (1, 0) for ViT. The authors advise (1, 0) for classes of few shots.
    n_shrinks : int
        How often; 2 in the original for convolutional networks, 1 for ViT.
    calibrate : bool
        C-FeCAM: classes that are not of the base session take the mean that `calibrate_prototypes` gives, and add to
        their covariance those of the base classes, weighted by `anchor_weights`.
    softmax_scale, shift_weight : float
        Of `calibrate_prototypes`, for ``calibrate``.
    logit_scale : float
        Multiplies scores in `predict_proba`.

    Notes
    -----
    The covariance is the unbiased one, over n - 1. A class of one item has none and borrows the covariance within all
    classes; if no class has two items, R is the identity, and the classifier the nearest mean of unit vectors. So is it
    for γ₁ → ∞.

    In whatever order and parts items come, the result is the same up to rounding. Without ``calibrate``, adding a class
    changes no other class's score, apart from classes of one item; `remove_class` leaves nothing behind. The common
    covariance moves with every class, and keeps a removed class's scatter, as in `StreamingLDA`.

    The state takes n_features² numbers in float64 for each class, and so does the table of factors, in the features'
    dtype. Scores are made class by class: no more than (n, n_features) numbers are held, and no (n, n) product.

    Differs from the authors' code, and why:

    - μ_c is the mean of x̃ (as in Avalanche), not the power of the mean of x: it is the mean that R_c is taken about.
    - The common covariance is that within classes. There, items of a task are pooled without being centered on their
      class, so that the result depends on which classes arrive together.
    - R_c divides by standard deviations, as in the paper. Two later re-implementations call ``corrcoef`` on the
      covariance, which correlates its rows.
    - Every session is scored alike; there, the first is by Euclidean distance to trained weights.
    - C-FeCAM's factor β of the covariance is left out: the normalisation undoes it.

    Source
    ------
    [FECAM] Goswami et al., "FeCAM: exploiting the heterogeneity of class distributions in exemplar-free continual
    learning", NeurIPS 2023. C-FeCAM: Goswami, Twardowski and van de Weijer, "Calibrating higher-order statistics for
    few-shot class-incremental learning with pre-trained vision transformers", CVPR workshops 2024.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[4.0, 0.0], [4.0, 0.2], [0.0, 1.0], [3.0, 1.0]])
    >>> model = FeCAM().fit(X, ["crow", "crow", "wren", "wren"])
    >>> model.partial_fit(np.array([[1.0, 9.0]]), ["tit"]).predict(np.array([[1.0, 8.0], [5.0, 0.1]])).tolist()
    ['tit', 'crow']
    """

    def __init__(
        self,
        covariance: str = "per-class",
        tukey: float | None = 0.5,
        shrinkage: tuple[float, float] = (1.0, 1.0),
        n_shrinks: int = 2,
        calibrate: bool = False,
        softmax_scale: float = 16.0,
        shift_weight: float = 0.5,
        logit_scale: float = 1.0,
    ) -> None:
        self.covariance = covariance
        self.tukey = tukey
        self.shrinkage = shrinkage
        self.n_shrinks = n_shrinks
        self.calibrate = calibrate
        self.softmax_scale = softmax_scale
        self.shift_weight = shift_weight
        self.logit_scale = logit_scale

    def _check_settings(self) -> None:
        check_choice("covariance", self.covariance, COVARIANCES)
        check_tukey_power(self.tukey)
        for value in self.shrinkage:
            check_non_negative("shrinkage", value)
        check_non_negative("n_shrinks", self.n_shrinks)
        check_non_negative("softmax_scale", self.softmax_scale)
        check_positive("logit_scale", self.logit_scale)
        if not 0 <= self.shift_weight <= 1:
            raise ValueError(f"shift_weight must lie in [0, 1], got {self.shift_weight}")

    def _empty(self, n_features: int, device: torch.device) -> PooledScatter | ClassScatters:
        return PooledScatter(n_features, device) if self.covariance == "common" else ClassScatters(n_features, device)

    def _placed(self, features: Tensor, *, reset: bool) -> Tensor:
        return super()._placed(check_tukey(features, self.tukey), reset=reset)

    def _learn(self, features: Tensor, index: Tensor, n_classes: int, *, base: bool) -> None:
        factors = self._factors()
        super()._learn(tukey_transform(features.double(), self.tukey), index, n_classes, base=base)
        touched = torch.unique(index)
        if not (self.calibrate and bool(self._is_base()[touched].any())):
            self._keep(factors, set(touched.tolist()))

    def _forget(self, position: int) -> None:
        factors, is_base = self._factors(), bool(self._is_base()[position])
        super()._forget(position)
        if not (self.calibrate and is_base):
            self._keep(without(factors, position), set())

    def _factors(self) -> dict[int, Tensor]:
        factors: dict[int, Tensor] = self._table.get("factors", {})
        return factors

    def _keep(self, factors: dict[int, Tensor], touched: set[int]) -> None:
        """Keep the factors that no change elsewhere touches: a class of one item borrows, and may lend what it has."""
        is_borrower = self._statistics.counts < 2
        if self.covariance == "per-class" and not (self.calibrate and bool(is_borrower[self._is_base()].any())):
            stale = touched | set(torch.nonzero(is_borrower)[:, 0].tolist())
            self._table["factors"] = {key: value for key, value in factors.items() if key not in stale}

    def _scores(self, features: Tensor) -> Tensor:
        size = max(1, _MAX_ENTRIES // features.shape[1])
        return torch.cat([self._part_scores(rows) for rows in torch.split(features, size)])

    def _part_scores(self, features: Tensor) -> Tensor:
        rows = l2_normalize(tukey_transform(features.to(self.dtype_), self.tukey))
        means = self._unit_means()
        if self.covariance == "common":
            factor = self._common_factor()
            rows, means = _whitened(rows, factor), _whitened(means, factor)
            squares = rows.square().sum(1, keepdim=True) + means.square().sum(1)
            return (2 * rows @ means.mT - squares).clamp(max=0)
        self._fill_factors()
        factors = self._factors()
        scores = [-_whitened(rows - mean, factors[key]).square().sum(1) for key, mean in enumerate(means)]
        return torch.stack(scores, 1)

    def _unit_means(self) -> Tensor:
        """Return the class means (n_classes, n_features), calibrated and of unit length."""
        if "means" not in self._table:
            means, is_base = self._statistics.means(), self._is_base()
            if self._is_calibrating():
                means[~is_base] = calibrate_prototypes(
                    means[is_base],
                    means[~is_base],
                    softmax_scale=self.softmax_scale,
                    shift_weight=self.shift_weight,
                )
            self._table["means"] = l2_normalize(means).to(self.dtype_)
        unit_means: Tensor = self._table["means"]
        return unit_means

    def _is_calibrating(self) -> bool:
        return self.calibrate and bool(self._is_base().any())

    def _common_factor(self) -> Tensor:
        if "common" not in self._table:
            self._table["common"] = self._factor(self._statistics.pooled())
        factor: Tensor = self._table["common"]
        return factor

    def _fill_factors(self) -> None:
        """Factor the covariances of the classes that have changed."""
        known = self._table.setdefault("factors", {})
        stale = [position for position in range(self._statistics.n_classes) if position not in known]
        if stale:
            for position, covariance in self._covariances(stale):
                known[position] = self._factor(covariance)

    def _factor(self, covariance: Tensor) -> Tensor:
        matrix = normalized_covariance(covariance, self.shrinkage, self.n_shrinks)
        return cholesky_factor(matrix, "set shrinkage to (1, 0) or more, and n_shrinks to 1 or more").to(self.dtype_)

    def _covariances(self, positions: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield some classes' covariances, each with its position."""
        statistics = self._class_scatters()
        pooled = statistics.pooled()
        is_blended = [self._is_calibrating() and not is_base for is_base in self._is_base()[positions].tolist()]
        blended = [position for position, is_new in zip(positions, is_blended, strict=True) if is_new]
        for position in set(positions).difference(blended):
            yield position, statistics.covariance(position, pooled)
        for start in range(0, len(blended), _MAX_COVARIANCES):
            part = blended[start : start + _MAX_COVARIANCES]
            for position, blend in zip(part, self._blends(part, pooled), strict=True):
                yield position, statistics.covariance(position, pooled) + blend

    def _blends(self, positions: list[int], pooled: Tensor) -> Tensor:
        """Return Σ_b w_nb Σ_b (k, n_features, n_features) for some new classes n, over base classes b."""
        statistics = self._class_scatters()
        means, base = statistics.means(), torch.nonzero(statistics.is_base)[:, 0]
        weights = anchor_weights(means[positions], means[base], softmax_scale=self.softmax_scale)
        blends = pooled.new_zeros((len(positions), *pooled.shape))
        parts = (torch.split(base, _MAX_COVARIANCES), torch.split(weights, _MAX_COVARIANCES, 1))
        for anchors, shares in zip(*parts, strict=True):
            covariances = torch.stack([statistics.covariance(anchor, pooled) for anchor in anchors.tolist()])
            blends += torch.tensordot(shares, covariances, 1)
        return blends

    def _class_scatters(self) -> ClassScatters:
        assert isinstance(self._statistics, ClassScatters)
        return self._statistics


def _whitened(rows: Tensor, factor: Tensor) -> Tensor:
    """Return L⁻¹ x for each row x."""
    whitened: Tensor = torch.linalg.solve_triangular(factor, rows.mT, upper=False).mT
    return whitened
