"""Features made richer, so that a linear classifier of them is not linear in the old ones."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["median_distance", "rbf_features", "relu_features"]


def relu_features(features: Tensor, projection: Tensor) -> Tensor:
    """Random projection and rectification: φ(x) = max(Wᵀx, 0).

    Parameters
    ----------
    features : Tensor (..., n, n_features)
    projection : Tensor (n_features, n_expanded)
        W.

    Returns
    -------
    Tensor (..., n, n_expanded)
        Not negative.

    Source
    ------
    [RANPAC], W ~ N(0, 1); [ACIL], W uniform in ±1 / √n_features.

    Examples
    --------
    >>> relu_features(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]))
    tensor([[1., 2., 0.]])
    """
    return (features @ projection).relu()


def rbf_features(features: Tensor, centers: Tensor, bandwidth: Tensor | float) -> Tensor:
    """Compare with centers by a Gaussian kernel: φ_j(x) = exp(-‖x - m_j‖² / (2 σ²)).

    Parameters
    ----------
    features : Tensor (..., n, n_features)
    centers : Tensor (n_expanded, n_features)
        m.
    bandwidth : Tensor () or float
        σ, in units of the features.

    Returns
    -------
    Tensor (..., n, n_expanded)
        In [0, 1]; 1 at the center.

    Notes
    -----
    The same for features and centers that are moved alike, or scaled alike together with σ.

    Source
    ------
    [GKEAL].

    Examples
    --------
    >>> rbf_features(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 5.0)
    tensor([[1.0000, 0.6065]])
    """
    return torch.exp(-torch.cdist(features, centers).square() / (2 * bandwidth**2))


def median_distance(points: Tensor, *, n_points: int = 1000) -> Tensor:
    """Return the median of the distances between the first ``n_points`` of some points (n, n_features), a scalar.

    1 where there is a single point, or most are the same.

    Examples
    --------
    >>> median_distance(torch.tensor([[0.0], [1.0], [3.0]]))
    tensor(2.)
    """
    median = torch.nn.functional.pdist(points[:n_points]).median()
    return torch.where(median > 0, median, torch.ones_like(median))
