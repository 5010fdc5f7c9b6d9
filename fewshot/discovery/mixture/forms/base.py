"""The interface of a covariance form to the E-step and the M-step, and the pieces that the forms share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fewshot.discovery.mixture.cholesky import cholesky_with_jitter, log_determinants
from fewshot.discovery.mixture.chunked_sums import Responsibilities
from fewshot.discovery.mixture.scaling import Standardization
from fewshot.discovery.niw import NIWPrior

__all__ = ["ClosedForm", "CovarianceForm", "Densities", "ModeTarget", "Moments", "Peaks", "aligned", "whitening_of"]


class Densities(Protocol):
    """Weighted components that are ready to score rows.

    ``log π_k + log N(x | μ_k, Σ_k) = constant + peaks_k - ½ (x - μ_k)ᵀ Σ_k⁻¹ (x - μ_k)``
    """

    @property
    def scaling(self) -> Standardization:
        """The coordinates of the rows that ``relative`` takes."""

    @property
    def constant(self) -> Tensor:
        """Tensor (), float64: common to all components, kept apart so that float32 need not carry it."""

    @property
    def peaks(self) -> Tensor:
        """Tensor (k,), float64, the highest 0: the value of ``relative`` at a component's own mean."""

    def relative(self, rows: Tensor) -> Tensor:
        """Return log π_k + log N(x | μ_k, Σ_k) less the constant, shape (n, k), of standardized rows (n, d)."""


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """The fields that the densities of all forms share, see `Densities`."""

    scaling: Standardization
    constant: Tensor
    peaks: Tensor

    @classmethod
    def of(cls, scaling: Standardization, log_weights: Tensor, log_determinants: Tensor, n_features: int) -> Peaks:
        """Compute the heights of components from their weights and log|Σ_k|."""
        heights = log_weights - 0.5 * log_determinants
        constant = heights.max() - n_features * (scaling.unit.log() + 0.5 * math.log(2 * math.pi))
        return Peaks(scaling, constant, heights - heights.max())

    @property
    def shared(self) -> tuple[Standardization, Tensor, Tensor]:
        """The fields, for the constructor of a form's densities."""
        return self.scaling, self.constant, self.peaks


class Moments(NamedTuple):
    """The sufficient statistics of an M-step, standardized, float64.

    Attributes
    ----------
    counts : Tensor (k,)
        N_k.
    sums : Tensor (k, d)
        Σ_i r_ik x_i.
    second : Tensor
        The second moment of the form, see `CovarianceForm.second_moment`; for the tied form Σ_i x_i x_iᵀ (d, d).
    """

    counts: Tensor
    sums: Tensor
    second: Tensor

    def plus(self, other: Moments) -> Moments:
        """Add the moments of other rows."""
        return Moments(self.counts + other.counts, self.sums + other.sums, self.second + other.second)


class ModeTarget(NamedTuple):
    """The terms of the joint mode: x̄_k, N_k, κN_k/(κ + N_k), x̄_k - m, the divisor, and which components stay."""

    averages: Tensor
    counts: Tensor
    pulls: Tensor
    gaps: Tensor
    divisors: Tensor
    is_kept: Tensor


class CovarianceForm(ABC):
    """A restriction of Σ_k: its densities, its second moment, and its step to the joint mode."""

    # One covariance for all components.
    is_shared = False

    @abstractmethod
    def densities(
        self, scaling: Standardization, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype
    ) -> Densities:
        """Prepare standardized components to score rows of ``dtype``."""

    @abstractmethod
    def mean_variances(self, covariances: Tensor) -> Tensor:
        """Return tr(Σ_k)/D of each component, shape (k,), or () of a shared covariance."""

    @abstractmethod
    def second_moment(
        self, responsibilities: Responsibilities, rows: Tensor, means: Tensor, densities: Densities | None
    ) -> Tensor:
        """Return a chunk's part of `Moments.second`, of standardized rows (b, d), about the last means (k, d)."""

    @abstractmethod
    def mode(
        self, moments: Moments, target: ModeTarget, prior: NIWPrior, means: Tensor, densities: Densities | None
    ) -> Tensor:
        """Return the covariances at the joint mode, or one step towards it."""

    def identity(self, covariances: Tensor) -> Tensor:
        """Return the unit that adds 1 to every variance of covariances."""
        return covariances.new_ones(())

    def scaled(self, covariances: Tensor, unit: Tensor) -> Tensor:
        """Return the covariances of x / unit, float64."""
        return covariances.double() / unit.square()

    def numbers_per_row(self, means: Tensor, covariances: Tensor) -> int:
        """Return how many numbers an E-step holds for a row at a time."""
        return max(means.shape[1], len(means))


class ClosedForm(CovarianceForm):
    """A form whose mode is A_k / divisor restricted to it, A_k = Ψ + S_k + κN_k/(κ + N_k) (x̄_k - m)(x̄_k - m)ᵀ."""

    @abstractmethod
    def outer(self, weights: Tensor, vectors: Tensor) -> Tensor:
        """Return w_k v_k v_kᵀ restricted to the form."""

    @abstractmethod
    def restricted(self, matrix: Tensor) -> Tensor:
        """Return a matrix (d, d) restricted to the form."""

    def scatters(self, moments: Moments, target: ModeTarget, means: Tensor) -> Tensor:
        """Return S_k restricted to the form, from second moments about 0."""
        return moments.second - self.outer(target.counts, target.averages)

    def divisors(self, target: ModeTarget, prior: NIWPrior) -> Tensor:
        """Return ν + N_k + D + 2."""
        return target.divisors

    def mode(
        self, moments: Moments, target: ModeTarget, prior: NIWPrior, means: Tensor, densities: Densities | None
    ) -> Tensor:
        """Return A_k by its divisor, restricted to the form."""
        total = self.scatters(moments, target, means) + self.restricted(prior.scale)
        total = total + self.outer(target.pulls, target.gaps)
        return total / aligned(self.divisors(target, prior), total)


def aligned(values: Tensor, like: Tensor) -> Tensor:
    """Put values (k,) in front of the trailing dimensions of ``like``; () stays as it is."""
    return values.reshape(values.shape + (1,) * (like.dim() - 1)) if values.dim() else values


def whitening_of(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Return A (..., d, d) with A Aᵀ = Σ⁻¹ and log|Σ| (...)."""
    factors = cholesky_with_jitter(covariances)
    identity = torch.eye(covariances.shape[-1]).to(covariances)
    inverse = torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False)
    return inverse.mT.contiguous(), log_determinants(factors)
