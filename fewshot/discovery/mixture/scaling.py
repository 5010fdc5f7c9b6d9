r"""The coordinates in which the rows of a mixture are multiplied: ``(x - shift) / unit``.

There rows lie around 0 with a variance of about 1: nothing overflows at 1e±20, and squared distances and second moments
can be taken from products without losing their digits, in float32 too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "FORMS",
    "LEAST_VARIANCE",
    "Frame",
    "frame_of",
    "framed_covariances",
    "mean_variances",
    "rounded_frame",
    "working_dtype",
]

# The least variance, as a share of the unit squared: a division by zero is the alternative.
LEAST_VARIANCE = 1e-12

FORMS = ("spherical", "diagonal", "tied", "full", "low-rank")


class Frame(NamedTuple):
    """Where rows are multiplied.

    Attributes
    ----------
    shift : Tensor (n_features,), float64
        What is taken from each row; exact in the rows' dtype.
    unit : Tensor (), float64
        What it is then divided by, positive; exact in the rows' dtype.
    """

    shift: Tensor
    unit: Tensor

    def rows(self, features: Tensor) -> Tensor:
        """Return rows (..., n_features) in the frame, halves widened to float32."""
        dtype = working_dtype(features)
        return (features.to(dtype) - self.shift.to(dtype)).div_(self.unit.to(dtype))

    def points(self, means: Tensor) -> Tensor:
        """Return points (..., n_features) in the frame, float64."""
        return (means.double() - self.shift) / self.unit


def working_dtype(features: Tensor) -> torch.dtype:
    """Return float64 for float64, else float32."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def rounded_frame(shift: Tensor, variance: Tensor, dtype: torch.dtype) -> Frame:
    """Make a frame of a shift (n_features,) and a variance (), with numbers that ``dtype`` can hold."""
    unit = torch.where(variance > 0, variance, 1.0).sqrt()
    return Frame(shift.to(dtype).double(), unit.to(dtype).double())


def frame_of(form: str, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> Frame:
    """Put the frame where the components lie: at the mixture's mean, with the root of its mean variance as unit."""
    weights = log_weights.double().softmax(-1)
    shift = weights @ means.double()
    within = weights @ mean_variances(form, covariances.double()).expand(len(weights))
    between = weights @ (means.double() - shift).square().mean(-1)
    return rounded_frame(shift, within + between, dtype)


def mean_variances(form: str, covariances: Tensor) -> Tensor:
    """Return tr(Σ_k)/D of each component, shape (k,), or () where it is one for all.

    Examples
    --------
    >>> mean_variances("diagonal", torch.tensor([[1.0, 3.0]])), mean_variances("tied", torch.eye(2))
    (tensor([2.]), tensor(1.))
    """
    if form == "spherical":
        return covariances
    if form == "diagonal":
        return covariances.mean(-1)
    if form == "low-rank":
        return (covariances[..., :-1].square().sum(-1) + covariances[..., -1]).mean(-1)
    return covariances.diagonal(dim1=-2, dim2=-1).mean(-1)


def framed_covariances(form: str, covariances: Tensor, unit: Tensor) -> Tensor:
    """Return covariances of x as those of x / unit, float64."""
    if form != "low-rank":
        return covariances.double() / unit.square()
    return torch.cat([covariances[..., :-1].double() / unit, covariances[..., -1:].double() / unit.square()], -1)
