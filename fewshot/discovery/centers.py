"""Nearest centers, distances and probabilities of rows, in blocks and without overflow of squares."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["block_size", "center_log_probabilities", "inertia", "nearest_centers", "power_of_two", "squared_distances"]

# Entries of a block of rows or of distances.
_MAX_ENTRIES = 2**21


def block_size(features: Tensor, n_centers: int) -> int:
    """Return how many rows to take at a time, for a bounded number of features and distances."""
    return max(1, _MAX_ENTRIES // max(features.shape[1], n_centers))


def nearest_centers(features: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest of some centers for each row, a block of rows at a time.

    Returns
    -------
    squared_distances : Tensor (n,), float64
        Up to the rounding of ``‖x‖² - 2x·c + ‖c‖²`` in the dtype of the features.
    labels : Tensor (n,), int64
        The first of equally near ones.
    """
    parts = [_nearest(rows, centers) for rows in torch.split(features, block_size(features, len(centers)))]
    return torch.cat([distances for distances, _ in parts]), torch.cat([labels for _, labels in parts])


def center_log_probabilities(features: Tensor, centers: Tensor, variance: Tensor) -> Tensor:
    """Return ``log softmax_k( -‖x_i - c_k‖² / (2σ²) )``, shape (n, n_clusters): equal, spherical Gaussians.

    Parameters
    ----------
    features : Tensor (n, n_features)
    centers : Tensor (n_clusters, n_features)
    variance : Tensor (), float64
        σ², of one feature within a cluster, not negative; with 0 the nearest center has it all.
    """
    squared, unit = _scaled_distances(features, centers)
    largest = torch.finfo(squared.dtype).max
    rate = (0.5 / variance.double() * unit.double().square()).clamp(max=largest).to(squared.dtype)
    return (-(squared - squared.amin(1, keepdim=True)) * rate).log_softmax(1)


def inertia(features: Tensor, centers: Tensor, labels: Tensor) -> float:
    """Return Σ_i ‖x_i - c_{labels_i}‖² by differences in float64."""
    size = block_size(features, 1)
    blocks = zip(torch.split(features, size), torch.split(labels, size), strict=True)
    total = sum((rows.double() - centers[own].double()).square().sum() for rows, own in blocks)
    return float(total)


def squared_distances(rows: Tensor, centers: Tensor) -> Tensor:
    """Return ``‖x‖² - 2x·c + ‖c‖²``, shape (n, n_centers), not negative, of rows and centers not far from 0."""
    squares = centers.square().sum(1) + rows.square().sum(1, keepdim=True)
    return torch.addmm(squares, rows, centers.mT, alpha=-2).clamp_(min=0)


def power_of_two(reach: Tensor) -> Tensor:
    """Return the least power of two above a number (), by which division is exact; 2⁻¹²⁰ at least.

    Examples
    --------
    >>> power_of_two(torch.tensor(5.0)).item()
    8.0
    """
    return torch.ldexp(torch.ones_like(reach), torch.frexp(reach).exponent.clamp(min=-120))


def _nearest(rows: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    squared, unit = _scaled_distances(rows, centers)
    found = squared.min(1)
    return found.values.double() * unit.double().square(), found.indices


def _scaled_distances(rows: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``‖x_i - c_k‖² / unit²``, shape (n, n_centers), and the unit, so that no square overflows."""
    shift = centers.mean(0)
    rows, centers = rows - shift, centers - shift
    unit = power_of_two(torch.maximum(rows.abs().amax(), centers.abs().amax()))
    return squared_distances(rows * (1 / unit), centers * (1 / unit)), unit
