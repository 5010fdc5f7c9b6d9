"""Cholesky factors of covariances that may be singular."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.discovery.mixture.scaling import LEAST_VARIANCE

__all__ = ["cholesky_with_jitter", "log_determinants"]

# From 1e-6 to 1e6 times the trace: then only a matrix that is not finite has no factor.
_MAX_DOUBLINGS = 40


def log_determinants(factors: Tensor) -> Tensor:
    """Return log|L Lᵀ| of Cholesky factors (..., d, d), shape (...)."""
    return 2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def cholesky_with_jitter(matrices: Tensor, *, jitter: float = 1e-6) -> Tensor:
    """Return lower Cholesky factors of covariances that may be singular.

    Where there is no factor, ``jitter · tr(Σ)/D`` is added to the diagonal, twice as much at each try.

    Parameters
    ----------
    matrices : Tensor (..., d, d), float64
        Symmetric, finite, of unit scale or thereabouts: a matrix of trace 0 counts as 1e-12 I.
    jitter : float
        The first share. Default 1e-6.

    Returns
    -------
    Tensor (..., d, d)

    Notes
    -----
    A factor with a pivot of rounding error alone (below d · ε · tr(Σ)/D) counts as none. A matrix that has one is not
    touched, whatever its companions: an absolute jitter would drown features whose variance is 1e-4.

    Examples
    --------
    >>> factor = cholesky_with_jitter(torch.ones(2, 2, dtype=torch.float64))
    >>> bool(torch.isclose(factor @ factor.mT, torch.ones(2, 2, dtype=torch.float64), atol=2e-6).all())
    True
    """
    scale = matrices.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=LEAST_VARIANCE)
    least = matrices.shape[-1] * torch.finfo(matrices.dtype).eps * scale
    factors, is_bad = _tried(matrices, least)
    added = torch.zeros_like(scale)
    for n_doublings in range(_MAX_DOUBLINGS):
        if not bool(is_bad.any()):
            break
        added = torch.where(is_bad, jitter * 2**n_doublings * scale, added)
        factors, is_bad = _tried(matrices + torch.diag_embed(added[..., None].expand(matrices.shape[:-1])), least)
    return factors


def _tried(matrices: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    factors, info = torch.linalg.cholesky_ex(matrices)
    pivots = factors.diagonal(dim1=-2, dim2=-1).square().amin(-1)
    return factors, (info != 0) | ~(pivots > least)
