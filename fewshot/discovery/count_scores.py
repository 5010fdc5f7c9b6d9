r"""Scores of a number of classes: recovery of held-out classes, silhouette, BIC. Higher is better.

Each score clusters the pool by semi-supervised k-means into k classes and scores the clustering. A `Scorer` is built
once for a pool and a seed; its score of k does not depend on which numbers were scored before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from fewshot.discovery.kmeans import semi_supervised_kmeans
from fewshot.discovery.mixture.fit import fit_mixture
from fewshot.discovery.mixture.start import state_from_partition
from fewshot.metrics import adjusted_rand_index, contingency_table
from fewshot.prototypes import one_hot

__all__ = [
    "Scorer",
    "bic_scorer",
    "hidden_class_scorer",
    "hold_out_classes",
    "sampled_silhouette",
    "silhouette",
    "silhouette_scorer",
]

Scorer: TypeAlias = Callable[[int, torch.Generator], float]

# Rows of which all distances are held.
_N_SAMPLED = 2000


def hidden_class_scorer(features: Tensor, labels: Tensor, generator: torch.Generator, *, n_init: int = 3) -> Scorer:
    """Score by the recovery of known classes whose labels are held out.

    Half of the known classes (two or more) lose their labels; the pool is clustered; the score is the adjusted Rand
    index of the hidden labels plus the silhouette of the clustering.

    Raises
    ------
    ValueError
        If there are fewer than three known classes.

    Notes
    -----
    Every clustering agrees with the labels it is given, so only held-out ones can score it. The index falls where
    held-out classes are merged and where they are split, but is flat over numbers that leave them whole: there the
    silhouette decides. [GCD] scores the matched accuracy of labels that its (unsupervised) k-means
    never saw; on real features its maximum lies lower, farther from the truth, than that of the index.

    Source
    ------
    Hidden labels: Han, Vedaldi and Zisserman, "Learning to Discover Novel Visual Categories via Deep Transfer
    Clustering", ICCV 2019 (DTC), from a description.
    """
    shown, is_hidden = hold_out_classes(labels, generator)
    truth = labels[is_hidden]
    judge = sampled_silhouette(features, generator)

    def score(n_clusters: int, generator: torch.Generator) -> float:
        found = semi_supervised_kmeans(features, shown, n_clusters, generator=generator, n_init=n_init).labels
        return float(adjusted_rand_index(contingency_table(found[is_hidden], truth))) + judge(found)

    return score


def hold_out_classes(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hold out the labels of half of the known classes, two or more.

    Returns
    -------
    shown : Tensor (n,), int64
        The remaining known classes, numbered anew from 0; -1 elsewhere.
    is_hidden : Tensor (n,), bool
        The rows that lost their label.
    """
    n_known = int(labels.max()) + 1
    if n_known < 3:
        raise ValueError(
            f"holding out classes needs at least 3 known ones, got {n_known}: use method='silhouette' or 'bic'"
        )
    order = torch.randperm(n_known, generator=generator, device=generator.device).to(labels.device)
    n_hidden = max(2, n_known // 2)
    number = labels.new_full((n_known + 1,), -1)  # the last is for rows without a label
    number[order[n_hidden:].sort().values] = torch.arange(n_known - n_hidden, device=labels.device)
    shown = number[labels]
    return shown, (labels >= 0) & (shown < 0)


def silhouette_scorer(features: Tensor, labels: Tensor, generator: torch.Generator, *, n_init: int = 3) -> Scorer:
    """Score by the mean silhouette of a sample of 2000 rows; see `silhouette`."""
    judge = sampled_silhouette(features, generator)

    def score(n_clusters: int, generator: torch.Generator) -> float:
        return judge(semi_supervised_kmeans(features, labels, n_clusters, generator=generator, n_init=n_init).labels)

    return score


def silhouette(distances: Tensor, labels: Tensor) -> float:
    """Return the mean silhouette ``(b_i - a_i) / max(a_i, b_i)``.

    a_i is the mean distance of row i to the others of its cluster, b_i the least mean distance to another cluster.

    Parameters
    ----------
    distances : Tensor (n, n)
    labels : Tensor (n,), int64

    Returns
    -------
    float
        In [-1, 1]; a row that is alone in its cluster counts 0, and so does every row of a single cluster.

    Source
    ------
    Rousseeuw, "Silhouettes", Journal of Computational and Applied Mathematics 20, 1987.

    Examples
    --------
    >>> rows = torch.tensor([0.0, 1.0, 8.0])
    >>> round(silhouette((rows[:, None] - rows).abs(), torch.tensor([0, 0, 1])), 4)
    0.5774
    """
    own = torch.unique(labels, return_inverse=True)[1]
    members = one_hot(own, int(own.max()) + 1, distances.dtype)
    counts = members.sum(0)
    if len(counts) == 1:
        return 0.0
    sums = distances @ members
    within = sums.gather(1, own[:, None])[:, 0] / (counts[own] - 1)
    nearest = (sums / counts).masked_fill(members.bool(), torch.inf).amin(1)
    values = (nearest - within) / torch.maximum(nearest, within)
    return float(torch.where(counts[own] > 1, values.nan_to_num(0.0), 0.0).double().mean())


def sampled_silhouette(features: Tensor, generator: torch.Generator) -> Callable[[Tensor], float]:
    """Build a function from labels (n,) to their `silhouette` on a fixed sample of 2000 rows."""
    chosen = torch.randperm(len(features), generator=generator, device=generator.device)[:_N_SAMPLED]
    chosen = chosen.to(features.device)
    rows = features[chosen] - features[chosen].mean(0)
    rows = rows / rows.abs().amax().clamp(min=torch.finfo(rows.dtype).tiny)
    distances = torch.cdist(rows, rows, compute_mode="use_mm_for_euclid_dist").fill_diagonal_(0)
    return lambda labels: silhouette(distances, labels[chosen])


def bic_scorer(features: Tensor, labels: Tensor, generator: torch.Generator, *, n_init: int = 3) -> Scorer:
    """Score by the Bayesian information criterion of a mixture with diagonal covariances, per row.

    ``(log L - p/2 · log n) / n`` with p = k(2d + 1) - 1 parameters, EM starting from the k-means partition.

    Notes
    -----
    -1/(2n) times the usual BIC. The likelihood is that of the labelled rows in their classes and of the others in any.
    Needs several rows per class and few features: reduce them first.

    Source
    ------
    Schwarz, "Estimating the Dimension of a Model", Annals of Statistics 6, 1978.
    """
    n, n_features = features.shape
    floor = 1e-6 * float(features.double().var(0, correction=0).mean())

    def score(n_clusters: int, generator: torch.Generator) -> float:
        part = semi_supervised_kmeans(features, labels, n_clusters, generator=generator, n_init=n_init).labels
        start = state_from_partition(features, part, n_clusters, form="diagonal", covariance_floor=floor)
        found = fit_mixture(features, labels, start, form="diagonal", covariance_floor=floor)
        n_parameters = n_clusters * (2 * n_features + 1) - 1
        return float(found.objective[-1]) / n - 0.5 * n_parameters * math.log(n) / n

    return score
