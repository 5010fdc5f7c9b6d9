r"""Log densities of Gaussian components under five forms of covariance, by products of matrices alone.

All that depends on the components alone (determinants, Cholesky factors, whitened means) is worked out once for a
state, in float64; what depends on rows is in the rows' dtype, in a `Frame`.

| form | ``covariances`` | Σ_k | products per row and component |
|---|---|---|---|
| spherical | (k,) | σ_k² I | D |
| diagonal | (k, d) | diag(σ_k²) | 2 D |
| tied | (d, d) | Σ | D, after one whitening of the row |
| full | (k, d, d) | Σ_k | D² |
| low-rank | (k, d, r + 1): the columns of W_k, then ψ_k | W_k W_kᵀ + diag(ψ_k) | (r + 2) D |

Source: Murphy, "Machine Learning: A Probabilistic Perspective", 2012, §4.2 and §12.1 (Woodbury for the low-rank form).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fewshot.discovery.mixture.cholesky import cholesky_with_jitter, log_determinants
from fewshot.discovery.mixture.scaling import LEAST_VARIANCE, Frame, frame_of, framed_covariances

__all__ = ["Densities", "LowRankDensities", "densities"]

# Numbers of (row, component, feature) held at a time.
_PIECE = 2**21


class Densities(Protocol):
    """Weighted components that are ready to score rows.

    ``log π_k + log N(x | μ_k, Σ_k) = constant + peaks_k - ½ (x - μ_k)ᵀ Σ_k⁻¹ (x - μ_k)``
    """

    @property
    def frame(self) -> Frame:
        """Where ``relative`` wants its rows."""

    @property
    def constant(self) -> Tensor:
        """Tensor (), float64: what all components share, kept apart so that float32 need not carry it."""

    @property
    def peaks(self) -> Tensor:
        """Tensor (k,), float64, the highest 0: the value of ``relative`` at a component's own mean."""

    def relative(self, rows: Tensor) -> Tensor:
        """Return log π_k + log N(x | μ_k, Σ_k) less the constant, shape (n, k), of rows (n, d) in the frame."""


@dataclass(frozen=True, slots=True, eq=False)
class _Peaks:
    frame: Frame
    constant: Tensor
    peaks: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Spherical(_Peaks):
    """½β‖x‖² is taken from x·βμ + offset."""

    columns: Tensor
    offsets: Tensor
    precisions: Tensor

    def relative(self, rows: Tensor) -> Tensor:
        return torch.addmm(self.offsets, rows, self.columns).addr_(rows.square().sum(-1), self.precisions, alpha=-0.5)


@dataclass(frozen=True, slots=True, eq=False)
class _Diagonal(_Peaks):
    """½ x²·β is taken from x·βμ + offset."""

    columns: Tensor
    offsets: Tensor
    precisions: Tensor

    def relative(self, rows: Tensor) -> Tensor:
        return torch.addmm(self.offsets, rows, self.columns).addmm_(rows.square(), self.precisions, alpha=-0.5)


@dataclass(frozen=True, slots=True, eq=False)
class _Tied(_Peaks):
    """With A Aᵀ = Σ⁻¹, ½‖xA‖² is taken from xA·μA + offset."""

    columns: Tensor
    offsets: Tensor
    whitening: Tensor

    def relative(self, rows: Tensor) -> Tensor:
        whitened = rows @ self.whitening
        logits = torch.addmm(self.offsets, whitened, self.columns)
        return logits.sub_(whitened.square().sum(-1, keepdim=True), alpha=0.5)


@dataclass(frozen=True, slots=True, eq=False)
class _Full(_Peaks):
    """With A_k A_kᵀ = Σ_k⁻¹, ½‖(x - μ_k) A_k‖² is taken from the peak, a few components at a time."""

    means: Tensor
    offsets: Tensor
    whitening: Tensor

    def relative(self, rows: Tensor) -> Tensor:
        size = max(1, _PIECE // max(1, rows.numel()))
        pieces = zip(torch.split(self.means, size), torch.split(self.whitening, size), strict=True)
        norms = [torch.linalg.vector_norm((rows - means[:, None]) @ whitening, dim=-1) for means, whitening in pieces]
        return self.offsets - 0.5 * torch.cat(norms).mT.square()


@dataclass(frozen=True, slots=True, eq=False)
class LowRankDensities(_Peaks):
    """½‖Vᵀ(x - μ)‖² is added to what diag(ψ) alone would give, with V = Ψ⁻¹ W L⁻ᵀ and L Lᵀ = I + Wᵀ Ψ⁻¹ W.

    Attributes
    ----------
    core : Tensor (k, r, r)
        L, float64.
    directions : Tensor (k, d, r)
        V, in the frame, float64.
    projection_columns, projection_offsets : Tensor (d, k · r), (k · r,)
        What V needs to be applied to rows by one product.
    """

    noise: _Diagonal
    core: Tensor
    directions: Tensor
    projection_columns: Tensor
    projection_offsets: Tensor

    def relative(self, rows: Tensor) -> Tensor:
        """Return weighted log densities less the constant, see `Densities`."""
        return self.noise.relative(rows).add_(self.projections(rows).square().sum(-1), alpha=0.5)

    def projections(self, rows: Tensor) -> Tensor:
        """Return V_kᵀ (x - μ_k), shape (n, k, r)."""
        k, _, r = self.directions.shape
        return torch.addmm(self.projection_offsets, rows, self.projection_columns).view(len(rows), k, r)


def densities(
    form: str,
    log_weights: Tensor,
    means: Tensor,
    covariances: Tensor,
    *,
    dtype: torch.dtype,
    frame: Frame | None = None,
) -> Densities:
    """Prepare weighted components to score rows.

    Parameters
    ----------
    form : str
        One of `FORMS`.
    log_weights : Tensor (k,)
        log π; zeros for densities without weights.
    means : Tensor (k, d)
    covariances : Tensor
        In the form's shape, see the table above.
    dtype : torch.dtype
        That of the rows to come, float32 or float64.
    frame : Frame, optional
        Where the rows will be; by default where the components lie.

    Returns
    -------
    Densities

    Notes
    -----
    Never fails: a covariance without a Cholesky factor gets a jitter (`cholesky_with_jitter`), and no variance counts
    as less than 1e-12 of the frame's unit squared.
    """
    if frame is None:
        frame = frame_of(form, log_weights, means, covariances, dtype)
    points, framed = frame.points(means), framed_covariances(form, covariances, frame.unit)
    return _MAKERS[form](frame, log_weights.double(), points, framed, dtype)


def _peaks(frame: Frame, log_weights: Tensor, log_determinants: Tensor, n_features: int) -> _Peaks:
    heights = log_weights - 0.5 * log_determinants
    constant = heights.max() - n_features * (frame.unit.log() + 0.5 * math.log(2 * math.pi))
    return _Peaks(frame, constant, heights - heights.max())


def _spherical(frame: Frame, log_weights: Tensor, means: Tensor, variances: Tensor, dtype: torch.dtype) -> Densities:
    variances = variances.clamp(min=LEAST_VARIANCE)
    precisions, n_features = variances.reciprocal(), means.shape[1]
    top = _peaks(frame, log_weights, n_features * variances.log(), n_features)
    offsets = top.peaks - 0.5 * precisions * means.square().sum(-1)
    columns = (precisions[:, None] * means).mT
    return _Spherical(*_fields(top), columns.to(dtype), offsets.to(dtype), precisions.to(dtype))


def _diagonal(frame: Frame, log_weights: Tensor, means: Tensor, variances: Tensor, dtype: torch.dtype) -> Densities:
    variances = variances.clamp(min=LEAST_VARIANCE)
    top = _peaks(frame, log_weights, variances.log().sum(-1), means.shape[1])
    return _diagonal_at(top, means, variances.reciprocal(), dtype)


def _diagonal_at(top: _Peaks, means: Tensor, precisions: Tensor, dtype: torch.dtype) -> _Diagonal:
    weighted = precisions * means
    offsets = top.peaks - 0.5 * (weighted * means).sum(-1)
    return _Diagonal(*_fields(top), weighted.mT.to(dtype), offsets.to(dtype), precisions.mT.to(dtype))


def _tied(frame: Frame, log_weights: Tensor, means: Tensor, covariance: Tensor, dtype: torch.dtype) -> Densities:
    whitening, log_determinant = _whitening(covariance)
    top = _peaks(frame, log_weights, log_determinant, means.shape[1])
    whitened = means @ whitening
    offsets = top.peaks - 0.5 * whitened.square().sum(-1)
    return _Tied(*_fields(top), whitened.mT.to(dtype), offsets.to(dtype), whitening.to(dtype))


def _full(frame: Frame, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> Densities:
    whitening, log_determinants = _whitening(covariances)
    top = _peaks(frame, log_weights, log_determinants, means.shape[1])
    return _Full(*_fields(top), means.to(dtype), top.peaks.to(dtype), whitening.to(dtype))


def _low_rank(frame: Frame, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> Densities:
    factors, noise = covariances[..., :-1], covariances[..., -1].clamp(min=LEAST_VARIANCE)
    scaled = factors / noise[..., None]
    core = cholesky_with_jitter(torch.eye(factors.shape[-1]).to(factors) + factors.mT @ scaled)
    top = _peaks(frame, log_weights, noise.log().sum(-1) + log_determinants(core), means.shape[1])
    directions = torch.linalg.solve_triangular(core, scaled.mT, upper=False).mT
    columns = directions.permute(1, 0, 2).reshape(means.shape[1], -1)
    offsets = -(means[:, None, :] @ directions).flatten()
    base = _diagonal_at(top, means, noise.reciprocal(), dtype)
    return LowRankDensities(*_fields(top), base, core, directions, columns.to(dtype), offsets.to(dtype))


_Maker = Callable[[Frame, Tensor, Tensor, Tensor, torch.dtype], Densities]
_MAKERS: dict[str, _Maker] = {
    "spherical": _spherical,
    "diagonal": _diagonal,
    "tied": _tied,
    "full": _full,
    "low-rank": _low_rank,
}


def _fields(top: _Peaks) -> tuple[Frame, Tensor, Tensor]:
    return top.frame, top.constant, top.peaks


def _whitening(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Return A (..., d, d) with A Aᵀ = Σ⁻¹ and log|Σ| (...)."""
    factors = cholesky_with_jitter(covariances)
    identity = torch.eye(covariances.shape[-1]).to(covariances)
    inverse = torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False)
    return inverse.mT.contiguous(), log_determinants(factors)
