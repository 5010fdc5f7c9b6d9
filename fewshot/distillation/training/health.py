"""Health of the features of a batch: spread, effective rank, and the entropy of the teacher's assignments.

Source: Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021 (spread of features); Roy and
Vetterli, "The effective rank", EUSIPCO 2007.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.distillation.losses import entropy
from fewshot.distillation.precision import wide
from fewshot.prototypes import l2_normalize

__all__ = ["Health", "measure_health"]


class Health(NamedTuple):
    """Figures of a batch.

    Attributes
    ----------
    feature_spread : float
        Standard deviation of each feature of unit rows, times √d, mean over features: about 0.5 to 1 is healthy; 0 if
        all rows are the same.
    effective_rank : float
        exp of the entropy of the shares of the principal directions in the variance, from 1.
    teacher_entropy : float
        Mean entropy of the teacher's assignments, in nats; NaN without assignments, as the following.
    teacher_divergence : float
        Mean KL(assignment || mean assignment): 0 if all images are assigned alike.
    n_used_prototypes : float
        How many prototypes are the largest of some row.
    """

    feature_spread: float
    effective_rank: float
    teacher_entropy: float
    teacher_divergence: float
    n_used_prototypes: float


@torch.no_grad()
def measure_health(features: Tensor, log_teacher: Tensor | None = None) -> Health:
    """Measure features and assignments of a batch; the host waits for the device once.

    Parameters
    ----------
    features : Tensor (b, d)
        Of a view of each image, b at least 2.
    log_teacher : Tensor (r, k), optional
        The teacher's assignments, log-probabilities, of any number of rows.

    Notes
    -----
    Scaling a row of features changes nothing; neither does a rotation of the features to the effective rank. The
    figures depend on the number of rows: compare those of batches of one size.

    Examples
    --------
    >>> rows = torch.eye(2).repeat(3, 1)
    >>> [round(figure, 3) for figure in measure_health(rows, torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log())]
    [0.775, 1.0, 0.509, 0.102, 1.0]
    """
    rows = l2_normalize(wide(features))
    spread = rows.std(0).mean() * math.sqrt(rows.shape[1])
    assignments = rows.new_full((3,), math.nan) if log_teacher is None else _assignment_figures(wide(log_teacher))
    return Health(*torch.cat([torch.stack([spread, _effective_rank(rows)]), assignments.to(rows)]).tolist())


def _effective_rank(rows: Tensor) -> Tensor:
    variances = torch.linalg.svdvals(rows - rows.mean(0)).square()
    shares = variances / variances.sum().clamp(min=torch.finfo(rows.dtype).tiny)
    rank: Tensor = torch.special.entr(shares).sum().exp()
    return rank


def _assignment_figures(log_teacher: Tensor) -> Tensor:
    """Return entropy, divergence and used prototypes."""
    own = entropy(log_teacher).mean()
    together = torch.special.entr(log_teacher.exp().mean(0)).sum()
    n_used = torch.bincount(log_teacher.argmax(-1), minlength=log_teacher.shape[-1]).count_nonzero()
    return torch.stack([own, (together - own).clamp(min=0), n_used.to(own)])
