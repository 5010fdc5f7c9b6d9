r"""Log densities of weighted Gaussian components, prepared once for a state and evaluated by products of matrices.

Quantities of the components alone (determinants, Cholesky factors, whitened means) are computed in float64; those of
rows in the rows' dtype, standardized. The equations of each form are in `fewshot.discovery.mixture.forms`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.discovery.mixture.forms import FORMS, Densities
from fewshot.discovery.mixture.scaling import Standardization, standardization

__all__ = ["densities"]


def densities(
    form: str,
    log_weights: Tensor,
    means: Tensor,
    covariances: Tensor,
    *,
    dtype: torch.dtype,
    scaling: Standardization | None = None,
) -> Densities:
    """Prepare weighted components to score rows.

    Parameters
    ----------
    form : str
        One of `fewshot.discovery.mixture.forms.FORMS`.
    log_weights : Tensor (k,)
        log π; zeros for densities without weights.
    means : Tensor (k, d)
    covariances : Tensor
        In the form's shape.
    dtype : torch.dtype
        That of the rows to come, float32 or float64.
    scaling : Standardization, optional
        That of the rows to come; by default that of the mixture itself.

    Returns
    -------
    Densities

    Notes
    -----
    Never fails: a covariance without a Cholesky factor gets a jitter (`cholesky_with_jitter`), and no variance counts
    as less than 1e-12 of the unit squared.
    """
    if scaling is None:
        scaling = _scaling_of(form, log_weights, means, covariances, dtype)
    scaled = FORMS[form].scaled(covariances, scaling.unit)
    return FORMS[form].densities(scaling, log_weights.double(), scaling.points(means), scaled, dtype)


def _scaling_of(
    form: str, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype
) -> Standardization:
    """Standardize by the mean of the mixture and the root of its mean variance."""
    weights = log_weights.double().softmax(-1)
    shift = weights @ means.double()
    within = weights @ FORMS[form].mean_variances(covariances.double()).expand(len(weights))
    between = weights @ (means.double() - shift).square().mean(-1)
    return standardization(shift, within + between, dtype)
