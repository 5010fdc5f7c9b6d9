r"""Feature space of the search: L2-normalise, project on principal components, whiten by the within-class covariance.

    z = (x / ‖x‖ - m) A,  with the labelled classes' covariance the identity and all rows' covariance diagonal,

so that Euclidean distances are Mahalanobis distances, and variance above 1 is variance between classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.statistics import cluster_sums
from fewshot.distributed import all_sum

__all__ = [
    "DiscoverySpace",
    "fit_space",
    "ledoit_wolf",
    "principal_space",
    "project",
    "whiten_within",
    "within_covariance",
]

_CHUNK = 8192
# Directions of less than this share of the largest variance are rounding, not data.
_NOTHING = 1e-9
# Added to the within-class covariance, as a share of its mean variance: columns may be constant.
_LEAST = 1e-6


class DiscoverySpace(NamedTuple):
    """An affine map of features.

    Attributes
    ----------
    center : Tensor (n_features,), float64
    basis : Tensor (n_features, n_dims), float64
    variances : Tensor (n_dims,), float64
        Of all rows in the space, largest first. In a whitened space, 1 + the variance between classes.
    """

    center: Tensor
    basis: Tensor
    variances: Tensor


def project(space: DiscoverySpace, features: Tensor, *, normalize: bool = True) -> Tensor:
    """Map features (n, n_features) to float32 or float64 (n, n_dims), in chunks."""
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    result = features.new_empty((len(features), space.basis.shape[1]), dtype=dtype)
    basis, center = space.basis.to(dtype), space.center.to(dtype)
    for start in range(0, len(features), _CHUNK):
        rows = _prepared(features[start : start + _CHUNK], dtype, normalize=normalize)
        torch.matmul(rows - center, basis, out=result[start : start + _CHUNK])
    return result


def _prepared(rows: Tensor, dtype: torch.dtype, *, normalize: bool) -> Tensor:
    """L2-normalise rows, scaled by their largest entry first so that no square overflows; a row of zeros stays zero."""
    rows = rows.to(dtype)
    if not normalize:
        return rows
    largest = rows.abs().amax(-1, keepdim=True)
    return torch.nn.functional.normalize(rows / torch.where(largest > 0, largest, 1), dim=-1)


def principal_space(features: Tensor, n_dims: int, *, normalize: bool = True) -> DiscoverySpace:
    """Find the principal directions of all rows, without labels.

    Parameters
    ----------
    features : Tensor (n, n_features)
    n_dims : int
        At most; directions without variance are left out, but for one.
    normalize : bool
        Whether rows are scaled to unit length.

    Returns
    -------
    DiscoverySpace
    """
    n_features = features.shape[1]
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    total, sums = (features.new_zeros(shape, dtype=torch.float64) for shape in ((), n_features))
    for rows in torch.split(features, _CHUNK):
        sums += _prepared(rows, dtype, normalize=normalize).sum(0, dtype=torch.float64)
        total += len(rows)
    total, sums = all_sum(total, sums)
    center = sums / total
    scatter = features.new_zeros((n_features, n_features), dtype=torch.float64)
    for rows in torch.split(features, _CHUNK):
        deviations = _prepared(rows, dtype, normalize=normalize) - center.to(dtype)
        scatter += deviations.mT @ deviations
    (scatter,) = all_sum(scatter)
    variances, directions = _eigen(scatter / total)
    n_kept = max(1, min(n_dims, int((variances > _NOTHING * variances[0]).sum())))
    return DiscoverySpace(center, directions[:, :n_kept], variances[:n_kept])


def _eigen(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, largest first and not negative, and eigenvectors."""
    values, vectors = torch.linalg.eigh(symmetric)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def whiten_within(projected: Tensor, labels: Tensor, n_known: int) -> tuple[Tensor, Tensor]:
    """Whiten by the within-class covariance, with the covariance of all rows diagonal.

    Parameters
    ----------
    projected : Tensor (n, n_dims)
        Centered.
    labels : Tensor (n,), int64
        In [0, n_known), or -1.
    n_known : int

    Returns
    -------
    basis : Tensor (n_dims, n_dims), float64
    variances : Tensor (n_dims,), float64
        Of all rows after the map, largest first.

    Notes
    -----
    The covariance is shrunk, see `ledoit_wolf`: with few labels it is noisy in many directions. Where no class has two
    labelled items it is taken to be a multiple of the identity, of a tenth of all rows' variance.
    """
    within = within_covariance(projected, labels, n_known)
    variances, directions = _eigen(within)
    whiten = directions * variances.clamp(min=_NOTHING * float(variances[0])).rsqrt()
    rows = projected.double()
    n, total = all_sum(rows.new_tensor(float(len(rows))), rows.mT @ rows)
    variances, directions = _eigen(whiten.mT @ (total / n) @ whiten)
    return whiten @ directions, variances


def within_covariance(projected: Tensor, labels: Tensor, n_known: int) -> Tensor:
    """Estimate the covariance (n_dims, n_dims) within labelled classes, see `whiten_within` and `ledoit_wolf`."""
    counts, sums = cluster_sums(projected, labels, n_known, dtype=torch.float64)
    is_labelled = labels >= 0
    residuals = projected[is_labelled].double() - (sums / counts.clamp(min=1)[:, None])[labels[is_labelled]]
    n_free = float((counts - 1).clamp(min=0).sum())
    covariance = ledoit_wolf(residuals, n_free) if n_free > 0 else None
    if covariance is not None and float(covariance.diagonal().sum()) > 0:
        floor = _LEAST * covariance.diagonal().mean()
        return covariance + floor * torch.eye(len(covariance)).to(covariance)
    n, squares = all_sum(*((projected.double().square().sum(1) ** power).sum() for power in (0, 1)))
    variance = squares / (n * projected.shape[1])
    return 0.1 * torch.where(variance > 0, variance, 1.0) * torch.eye(projected.shape[1]).to(variance)


def ledoit_wolf(residuals: Tensor, n_free: float) -> Tensor:
    """Estimate a covariance by Ledoit-Wolf shrinkage towards a multiple of the identity.

    Parameters
    ----------
    residuals : Tensor (n, n_features), float64
        Deviations from class means.
    n_free : float
        Degrees of freedom: items less classes, positive.

    Returns
    -------
    Tensor (n_features, n_features)

    Source
    ------
    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Analysis
    88, 2004; with n_free in place of the number of items.

    Examples
    --------
    >>> ledoit_wolf(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double(), 4.0)
    tensor([[1.2917, 0.0000],
            [0.0000, 1.2083]], dtype=torch.float64)
    """
    n_features = residuals.shape[1]
    scatter, fourth = all_sum(residuals.mT @ residuals, residuals.square().sum(1).square().sum())
    covariance = scatter / n_free
    mean = covariance.diagonal().mean()
    identity = torch.eye(n_features, dtype=covariance.dtype, device=covariance.device)
    noise = (fourth / n_free - covariance.square().sum()) / n_free
    distance = (covariance - mean * identity).square().sum()
    share = torch.where(distance > 0, noise / distance, 1.0).clamp(0, 1)
    return (1 - share) * covariance + share * mean * identity


def fit_space(
    features: Tensor, labels: Tensor, n_known: int, *, n_dims: int = 64, normalize: bool = True
) -> DiscoverySpace:
    """Find the space of a pool: `principal_space`, then `whiten_within`.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        In [0, n_known), or -1.
    n_known : int
    n_dims : int
        Principal directions kept, default 64.
    normalize : bool
        Whether rows are scaled to unit length first, default True.
    """
    principal = principal_space(features, n_dims, normalize=normalize)
    basis, variances = whiten_within(project(principal, features, normalize=normalize), labels, n_known)
    return DiscoverySpace(principal.center, principal.basis @ basis, variances)
