"""Post-processing of features in fitted steps: L2, signed power, PCA with whitening, and chains of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

from fewshot.checks import check_non_negative, check_positive
from fewshot.probing.inputs import check_rows, check_same_width, widened
from fewshot.prototypes import l2_normalize

__all__ = ["L2", "PCA", "Affine", "Chain", "FittedChain", "FittedStep", "SignedPower", "Standardise", "Step"]

# Rows that a sum over the training set takes at once.
_N_ROWS = 8192


class FittedStep(Protocol):
    """A step whose numbers are settled."""

    def __call__(self, features: Tensor) -> Tensor:
        """Map features (..., n_features) to (..., n_features out), in their dtype; half precision becomes float32."""


class Step(Protocol):
    """The settings of a step."""

    def fit(self, features: Tensor) -> FittedStep:
        """Fit the step to training features (n, n_features)."""

    def describe(self) -> str:
        """Describe the step in a few words."""


@dataclass(frozen=True, slots=True)
class L2:
    """Divide by the Euclidean norm; zero stays zero.

    Examples
    --------
    >>> L2()(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """

    def fit(self, features: Tensor) -> L2:
        """Return the step itself: there is nothing to learn."""
        return self

    def __call__(self, features: Tensor) -> Tensor:
        """Normalise features (..., n_features)."""
        return l2_normalize(widened(features))

    def describe(self) -> str:
        """Describe the step in a few words."""
        return "L2-normalised"


@dataclass(frozen=True, slots=True)
class SignedPower:
    """Raise every component to a power and keep its sign: sign(x) |x|^p.

    Parameters
    ----------
    p
        Above 0. [OTS] takes 2, which sharpens; 1/2, the Hellinger root, does the opposite.

    Raises
    ------
    ValueError
        If ``p`` is not positive.

    Source
    ------
    [OTS] Classification with augmented data.

    Examples
    --------
    >>> SignedPower()(torch.tensor([[-3.0, 0.0, 2.0]])).tolist()
    [[-9.0, 0.0, 4.0]]
    """

    p: float = 2.0

    def __post_init__(self) -> None:
        check_positive("p", self.p)

    def fit(self, features: Tensor) -> SignedPower:
        """Return the step itself: there is nothing to learn."""
        return self

    def __call__(self, features: Tensor) -> Tensor:
        """Transform features (..., n_features)."""
        x = widened(features)
        return x.sign() * x.abs().pow(self.p)

    def describe(self) -> str:
        """Describe the step in a few words."""
        return f"signed power {self.p:g}"


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Affine form of PCA and standardisation: scale · U (x - m).

    Attributes
    ----------
    mean : Tensor (n_features,), float64
    directions : Tensor (n_components, n_features), float64, or None
        Orthonormal rows; None for the axes themselves.
    scale : Tensor (n_components,), float64
    """

    mean: Tensor
    directions: Tensor | None
    scale: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Transform features (..., n_features)."""
        x = check_same_width("features", widened(features), len(self.mean))
        centered = x - self.mean.to(x)
        projected = centered if self.directions is None else centered @ self.directions.to(x).mT
        return projected * self.scale.to(x)


@dataclass(frozen=True, slots=True)
class Standardise:
    """Bring every feature to mean 0 and variance 1 over the training rows (divisor n); a constant one becomes 0."""

    def fit(self, features: Tensor) -> Affine:
        """Learn mean and deviation of training features (n, n_features)."""
        features = check_rows("features", features)
        mean = _mean(features)
        variance = _sum_over_rows(features, lambda rows: (rows - mean).square().sum(0)) / len(features)
        is_constant = features.amax(0) == features.amin(0)
        return Affine(mean, None, variance.rsqrt().masked_fill(is_constant, 0.0))

    def describe(self) -> str:
        """Describe the step in a few words."""
        return "standardised"


@dataclass(frozen=True, slots=True)
class PCA:
    """Project onto the directions of largest variance, each then scaled to variance 1 (whitening).

    ::

        Σ = U Λ Uᵀ    covariance of the training rows (divisor n - 1)
        y = (Λ_k + eps)^(-1/2) U_kᵀ (x - m)

    Parameters
    ----------
    n_components
        k, at most min(n - 1, n_features) of the training rows; [OTS] takes 500.
    whiten
        Without it, y = U_kᵀ (x - m).
    eps
        In units of the variance of the training features; damps directions that hardly vary.

    Raises
    ------
    ValueError
        If ``n_components`` is below 1 or ``eps`` negative.

    Notes
    -----
    The sign of an eigenvector is free: here its component of largest magnitude is positive. Statistics are computed in
    float64, rows a few thousand at a time; the covariance matrix is held whole.

    Source
    ------
    [OTS] Instance retrieval.
    """

    n_components: int
    whiten: bool = True
    eps: float = 0.0

    def __post_init__(self) -> None:
        check_positive("n_components", self.n_components)
        check_non_negative("eps", self.eps)

    def fit(self, features: Tensor) -> Affine:
        """Learn the directions from training features (n, n_features).

        Raises
        ------
        ValueError
            If there are too few rows or features for so many components, or if whitening with ``eps`` 0 meets a
            direction in which the rows do not vary.
        """
        features = check_rows("features", features)
        n, n_features = features.shape
        if self.n_components > min(n - 1, n_features):
            raise ValueError(
                f"PCA to {self.n_components} components needs more rows than that and as many features, "
                f"got {n} x {n_features}: ask for at most {min(n - 1, n_features)}"
            )
        mean = _mean(features)
        scatter = _sum_over_rows(features, lambda rows: (rows - mean).mT @ (rows - mean))
        variances, directions = _principal_directions(scatter / (n - 1))
        kept = variances[: self.n_components].clamp(min=0)
        if self.whiten and self.eps == 0:
            _check_rank(self.n_components, variances, features)
        scale = (kept + self.eps).rsqrt() if self.whiten else torch.ones_like(kept)
        return Affine(mean, directions[: self.n_components], scale)

    def describe(self) -> str:
        """Describe the step in a few words."""
        whitened = f", whitened{f' (eps {self.eps:g})' if self.eps else ''}" if self.whiten else ""
        return f"PCA to {self.n_components}{whitened}"


@dataclass(frozen=True, slots=True)
class Chain:
    """Chain of steps, each fitted on the training features as the previous steps transform them.

    Examples
    --------
    >>> chain = Chain((L2(), SignedPower(2)))
    >>> chain.fit(torch.eye(2))(torch.tensor([[2.0, 0.0]])).tolist()
    [[1.0, 0.0]]
    >>> chain.describe()
    'L2-normalised, signed power 2'
    """

    steps: Sequence[Step]

    def fit(self, features: Tensor) -> FittedChain:
        """Fit the steps on training features (n, n_features)."""
        features = check_rows("features", features)
        fitted: list[FittedStep] = []
        for step in self.steps:
            fitted.append(step.fit(features))
            features = fitted[-1](features)
        return FittedChain(tuple(fitted))

    def describe(self) -> str:
        """Describe the step in a few words."""
        return ", ".join(step.describe() for step in self.steps) or "features as they are"


@dataclass(frozen=True, slots=True)
class FittedChain:
    """Fitted steps one after the other."""

    steps: tuple[FittedStep, ...]

    def __call__(self, features: Tensor) -> Tensor:
        """Transform features (..., n_features)."""
        features = widened(features)
        for step in self.steps:
            features = step(features)
        return features


def _sum_over_rows(features: Tensor, summand: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum ``summand`` over the rows, in float64, a few thousand at a time."""
    return reduce(torch.add, (summand(rows.double()) for rows in torch.split(features, _N_ROWS)))


def _mean(features: Tensor) -> Tensor:
    return _sum_over_rows(features, lambda rows: rows.sum(0)) / len(features)


def _principal_directions(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, largest first, and eigenvectors as rows whose entry of largest magnitude is positive."""
    variances, vectors = torch.linalg.eigh(covariance)
    directions = vectors.mT.flip(0)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return variances.flip(0), directions * largest.sign()


def _check_rank(n_components: int, variances: Tensor, features: Tensor) -> None:
    """Refuse to scale rounding errors, of the features or of the statistics, to variance 1."""
    rounding = torch.finfo(features.dtype).eps * float(features.abs().max())
    threshold = (variances[0] * len(variances) * torch.finfo(variances.dtype).eps).clamp(min=rounding**2)
    rank = int((variances > threshold).sum())
    if n_components > rank:
        raise ValueError(
            f"PCA with whitening to {n_components} components: the training features vary in {rank} directions only: "
            "ask for fewer components, or give eps above 0"
        )
