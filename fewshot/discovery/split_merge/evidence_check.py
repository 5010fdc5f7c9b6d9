r"""A normal-inverse-Wishart prior from the labels, and a check of a class model against the labels.

    Ψ = (ν - D - 1) Σ̂_w,  ν = f D + 2,  f = argmax Σ_k log h(labelled class k)        (empirical Bayes)

with Σ̂_w the covariance within labelled classes. A small f lets covariances differ between classes, a large one makes
all of them Σ̂_w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.niw import NIWPrior
from fewshot.discovery.space import within_covariance
from fewshot.discovery.split_merge.evidence import Evidence, log_split_ratio
from fewshot.discovery.split_merge.splits import propose_splits
from fewshot.discovery.statistics import cluster_statistics

__all__ = ["DOF_FACTORS", "EvidenceCheck", "check_evidence", "niw_prior"]

# Candidates of f, from "one covariance per class" to "one covariance".
DOF_FACTORS = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class EvidenceCheck(NamedTuple):
    """The agreement of a class model with the known classes.

    Attributes
    ----------
    n_whole, n_classes : int
        Labelled classes of four items or more, and how many of them it would leave whole rather than split in two.
    n_apart, n_pairs : int
        Pairs of a labelled class and its nearest, and how many of them it would keep apart rather than merge.
    """

    n_whole: int
    n_classes: int
    n_apart: int
    n_pairs: int

    @property
    def warning(self) -> str | None:
        """One line where fewer than three quarters of classes stay whole, or fewer than a quarter of pairs apart."""
        if 4 * self.n_whole < 3 * self.n_classes:
            return (
                f"the model would split {self.n_classes - self.n_whole} of {self.n_classes} labelled classes in two, "
                "so it will find too many classes: lower power, or give fewer n_dims"
            )
        if 4 * self.n_apart < self.n_pairs:
            return (
                f"the model would merge {self.n_pairs - self.n_apart} of {self.n_pairs} pairs of nearest labelled "
                "classes, so it will find too few classes: raise power, or use features that tell these classes apart"
            )
        return None


def niw_prior(
    features: Tensor,
    labels: Tensor,
    n_known: int,
    *,
    mean_strength: float = 0.01,
    factors: Sequence[float] = DOF_FACTORS,
) -> NIWPrior:
    """Set a normal-inverse-Wishart prior from labelled rows, by empirical Bayes over ν.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        In [0, n_known), or -1.
    n_known : int
        At least 1.
    mean_strength : float
        κ, default 0.01: means lie ten within-class deviations from m, more or less.
    factors : sequence of float
        Candidates of f, above 1.

    Returns
    -------
    NIWPrior
        m is the mean of all rows.

    Notes
    -----
    On features of real images it selects too small an f, and then too few classes;
    `fewshot.discovery.split_merge.evidence_power` finds their number. [GPC]'s released code sets ν = 769
    and Ψ = 0.005 I for any data.
    """
    n_features = features.shape[1]
    covariance = within_covariance(features, labels, n_known)
    classes = cluster_statistics(features, labels, n_known)
    mean = features.double().mean(0)
    found = []
    for factor in factors:
        dof = mean.new_tensor(factor * n_features + 2)
        prior = NIWPrior(mean, mean.new_tensor(mean_strength), dof, (dof - n_features - 1) * covariance)
        found.append((float(prior.log_evidence(classes).sum()), prior))
    return max(found, key=lambda candidate: candidate[0])[1]


def check_evidence(
    features: Tensor, labels: Tensor, n_known: int, evidence: Evidence, *, concentration: float = 1.0
) -> EvidenceCheck:
    """Check, before anything is fitted, whether a class model agrees with the labels.

    Every labelled class is split by 2-means: the evidence should be for merging its halves. Every labelled class is
    compared with its nearest: the evidence should be for keeping the two apart.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        In [0, n_known), or -1.
    n_known : int
    evidence : Evidence
    concentration : float
        α of the Dirichlet process, default 1.

    Returns
    -------
    EvidenceCheck
    """
    if n_known == 0:
        return EvidenceCheck(0, 0, 0, 0)
    rows = torch.nonzero(labels >= 0)[:, 0]
    known, owners = features[rows], labels[rows]
    is_bound = torch.zeros_like(owners, dtype=torch.bool)
    splits = propose_splits(known, owners, is_bound, n_known, evidence, concentration=concentration)
    classes = cluster_statistics(known, owners, n_known)
    is_large = classes.counts >= 4
    n_whole = int((is_large & (splits.log_ratio <= 0)).sum())
    if n_known < 2:
        return EvidenceCheck(n_whole, int(is_large.sum()), 0, 0)
    nearest = torch.cdist(classes.means, classes.means).fill_diagonal_(torch.inf).argmin(1)
    is_apart = log_split_ratio(evidence, classes, classes.at(nearest), concentration=concentration) > 0
    return EvidenceCheck(n_whole, int(is_large.sum()), int(is_apart.sum()), n_known)
