r"""Evidence of a cluster, and the evidence for two clusters in place of one.

    split   log H_s = log α + lnΓ(n₁) + log h(Z₁) + lnΓ(n₂) + log h(Z₂) - lnΓ(n₁ + n₂) - log h(Z₁ ∪ Z₂)
    merge   log H_m = -log H_s

log h is that of the normal-inverse-Wishart prior (`fewshot.discovery.niw`) or of the two-covariance model below.

Source: Chang and Fisher, "Parallel sampling of DP mixture models using sub-cluster splits", NeurIPS 2013, for the
ratios, without their factor for the sub-cluster weights, as in [DEEPDPM] and [GPC].
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fewshot.discovery.statistics import ClusterStatistics, add_statistics

__all__ = ["Evidence", "TwoCovariance", "collapsed_objective", "log_merge_ratio", "log_split_ratio"]


class Evidence(Protocol):
    """Interface of a class model to split and merge."""

    @property
    def needs_scatters(self) -> bool:
        """Whether scatters are needed besides counts and means."""

    def log_evidence(self, statistics: ClusterStatistics) -> Tensor:
        """Return log h(Z) of each cluster, shape (...), in nats, up to terms that add over items."""


class TwoCovariance(NamedTuple):
    r"""Gaussian classes of one covariance with Gaussian means, under a tempered likelihood.

    In a space where the covariance within classes is the identity and that of the means diagonal,
    x | μ ~ N(μ, I), μ ~ N(m, diag(b)), and with the likelihood to the power η

        log h(Z) = Σ_j ½ [ (ηn)² b_j (x̄_j - m_j)² / (1 + ηn b_j) - log(1 + ηn b_j) ] + η · (terms that add over items).

    Real classes are not Gaussian: their items are less independent than the model assumes, which makes it too sure. The
    power is the weight of one item; 1 is the untempered model.

    Attributes
    ----------
    mean : Tensor (n_features,)
        m.
    between : Tensor (n_features,)
        b, not negative; a direction in which classes do not differ has no weight.
    power : float
        η, in (0, 1].

    Notes
    -----
    The limit of the normal-inverse-Wishart prior for ν → ∞, but for b, which is m's covariance over κ there, the same
    in all directions. Needs counts and means alone.

    Source
    ------
    Brümmer and de Villiers, "The speaker partitioning problem", Odyssey 2010, for the model; Grünwald, "The safe
    Bayesian", ALT 2012, and Diez et al., "Bayesian HMM based x-vector clustering", Interspeech 2019, for the power.

    Examples
    --------
    >>> model = TwoCovariance(torch.zeros(1), torch.tensor([9.0]), 1.0)
    >>> apart = ClusterStatistics(torch.tensor([20.0, 20.0]), torch.tensor([[-3.0], [3.0]]))
    >>> first, second = (apart.at(torch.tensor(k)) for k in (0, 1))
    >>> log_split_ratio(model, first, second) > 0
    tensor(True)
    """

    mean: Tensor
    between: Tensor
    power: float

    @property
    def needs_scatters(self) -> bool:
        """False: all classes have one covariance."""
        return False

    def log_evidence(self, statistics: ClusterStatistics) -> Tensor:
        """Return log h(Z) of each cluster, shape (...)."""
        spread = self.power * statistics.counts[..., None] * self.between
        gain = (
            self.power * statistics.counts[..., None] * (statistics.means - self.mean).square() * spread / (1 + spread)
        )
        return 0.5 * (gain - spread.log1p()).sum(-1)


def log_split_ratio(
    evidence: Evidence, first: ClusterStatistics, second: ClusterStatistics, *, concentration: float = 1.0
) -> Tensor:
    """Return log H_s of each pair of clusters: the evidence that they are two and not one.

    Parameters
    ----------
    evidence : Evidence
    first, second : ClusterStatistics
        Of Z₁ and Z₂, disjoint and not empty.
    concentration : float
        α of the Dirichlet process, positive. 1 in [GPC], 10 in [DEEPDPM].

    Returns
    -------
    Tensor (...)
        Nats. Symmetric in its two sets.
    """
    both = add_statistics(first, second)
    parts = [torch.lgamma(part.counts) + evidence.log_evidence(part) for part in (first, second, both)]
    return math.log(concentration) + parts[0] + parts[1] - parts[2]


def log_merge_ratio(
    evidence: Evidence, first: ClusterStatistics, second: ClusterStatistics, *, concentration: float = 1.0
) -> Tensor:
    """Return log H_m of each pair of clusters, exactly -log H_s: the evidence that they are one and not two."""
    return -log_split_ratio(evidence, first, second, concentration=concentration)


def collapsed_objective(evidence: Evidence, statistics: ClusterStatistics, *, concentration: float = 1.0) -> Tensor:
    """Return K log α + Σ_k [lnΓ(n_k) + log h(Z_k)] of the clusters that are not empty; log H is its change."""
    clusters = statistics.at(statistics.counts > 0)
    each = math.log(concentration) + torch.lgamma(clusters.counts) + evidence.log_evidence(clusters)
    return each.sum()
