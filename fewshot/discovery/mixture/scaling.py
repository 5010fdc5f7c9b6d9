r"""Standardized coordinates ``(x - shift) / unit`` for the arithmetic of a mixture.

Standardized rows lie around 0 with a variance of about 1: nothing overflows at 1e±20, and squared distances and second
moments can be taken from products without losing digits, in float32 too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LEAST_VARIANCE", "Standardization", "standardization", "working_dtype"]

# The least variance, as a share of the unit squared: avoids a division by zero.
LEAST_VARIANCE = 1e-12


class Standardization(NamedTuple):
    """A shift and a scale of rows.

    Attributes
    ----------
    shift : Tensor (n_features,), float64
        Subtracted from each row; exact in the rows' dtype.
    unit : Tensor (), float64
        The divisor, positive; exact in the rows' dtype.
    """

    shift: Tensor
    unit: Tensor

    def rows(self, features: Tensor) -> Tensor:
        """Standardize rows (..., n_features) in their own dtype; halves are widened to float32."""
        dtype = working_dtype(features)
        return (features.to(dtype) - self.shift.to(dtype)).div_(self.unit.to(dtype))

    def points(self, means: Tensor) -> Tensor:
        """Standardize points (..., n_features) in float64."""
        return (means.double() - self.shift) / self.unit


def working_dtype(features: Tensor) -> torch.dtype:
    """Return float64 for float64, else float32."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def standardization(shift: Tensor, variance: Tensor, dtype: torch.dtype) -> Standardization:
    """Build a standardization from a shift (n_features,) and a variance (), rounded to ``dtype``."""
    unit = torch.where(variance > 0, variance, 1.0).sqrt()
    return Standardization(shift.to(dtype).double(), unit.to(dtype).double())
