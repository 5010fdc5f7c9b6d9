r"""Losses that pull features towards the prototypes of their classes, and apart from those of others.

Alternating with the search for classes they learn a representation: classes are found (E-step), features are trained
to lie near their prototypes (M-step). All take rows of unit length; all but the concentrations are differentiable.

Source: [GPC] §3 and the released code; Li et al., "Prototypical Contrastive Learning of Unsupervised Representations",
ICLR 2021; Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020; [GCD] §3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewshot.discovery.space import within_covariance

__all__ = [
    "class_spread",
    "dropout_view",
    "info_nce",
    "noisy_view",
    "prototype_concentrations",
    "prototypical_contrast",
    "supervised_contrast",
]

_CHUNK = 8192
# No prototype is this many times as concentrated as the widest: a cluster of equal rows would ask for a division by 0.
_LEAST_SHARE = 1e-3


@torch.no_grad()
def prototype_concentrations(
    features: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    smoothing: float = 10.0,
    clip: tuple[float, float] = (0.1, 0.9),
) -> Tensor:
    r"""Measure the spread of the rows of each prototype: the temperatures of `prototypical_contrast`.

    ``φ_k = mean_{i∈k} ‖x_i - c_k‖ / log(n_k + s)``, then clipped to two of its quantiles over the prototypes, then
    scaled to mean ``temperature``.

    Parameters
    ----------
    features : Tensor (n, n_features)
    prototypes : Tensor (n_prototypes, n_features)
    labels : Tensor (n,), int64
        The prototype of each row, or -1 for a row that does not count.
    temperature : float
        The mean of the result. [GPC] uses 1, with which logits of unit rows lie in about [-1, 1]: a soft loss. Li et
        al. use 0.2.
    smoothing : float
        s, keeps small clusters from looking narrow. Default 10, as in both codes.
    clip : (float, float)
        The quantiles, in [0, 1]. Default 0.1 and 0.9, as in both codes.

    Returns
    -------
    Tensor (n_prototypes,)
        Positive, of mean ``temperature``, of the features' dtype.

    Notes
    -----
    A prototype of one row or none gets the largest φ of the others. Where no row lies off its prototype all are
    ``temperature`` (the authors' become NaN), and none is taken to be below a thousandth of the largest. Moving and
    scaling everything changes nothing, nor does the order of rows. A constant: no gradient.

    Source
    ------
    Li et al., ICLR 2021, Eq. 12 and the released code; [GPC] released code.

    Examples
    --------
    >>> rows, prototypes = torch.tensor([[0.0], [2.0], [10.0], [16.0], [30.0]]), torch.tensor([[1.0], [13.0], [30.0]])
    >>> prototype_concentrations(rows, prototypes, torch.tensor([0, 0, 1, 1, 2]), temperature=0.7, clip=(0, 1))
    tensor([0.3000, 0.9000, 0.9000])
    """
    counts, distances = (features.new_zeros(len(prototypes) + 1, dtype=torch.float64) for _ in range(2))
    for rows, own in zip(torch.split(features, _CHUNK), torch.split(labels, _CHUNK), strict=True):
        gaps = (rows - prototypes[own.clamp(min=0)]).double().norm(dim=1)
        distances.index_add_(0, own + 1, gaps)
        counts.index_add_(0, own + 1, torch.ones_like(gaps))
    counts, distances = counts[1:], distances[1:]
    spread = torch.where(counts > 1, distances / counts.clamp(min=1) / (counts + smoothing).log(), 0.0)
    largest = spread.amax()
    spread = torch.where(counts > 1, spread, largest).clamp(min=_LEAST_SHARE * largest)
    spread = spread.clamp(*spread.quantile(spread.new_tensor(clip)))
    mean = spread.mean()
    return torch.where(mean > 0, temperature * spread / mean, temperature).to(features.dtype)


def prototypical_contrast(queries: Tensor, prototypes: Tensor, labels: Tensor, concentrations: Tensor) -> Tensor:
    """Return the mean of ``-log softmax_j(q·c_j / φ_j)`` at the query's own prototype.

    Parameters
    ----------
    queries : Tensor (n, n_features)
        Of unit length.
    prototypes : Tensor (n_prototypes, n_features)
        Of unit length; constants, they get no gradient.
    labels : Tensor (n,), int64
        The prototype of each query, or -1 for a query that does not count.
    concentrations : Tensor (n_prototypes,)
        φ, positive: see `prototype_concentrations`. Constants.

    Returns
    -------
    Tensor ()
        Not negative; 0 where no query counts.

    Notes
    -----
    All other prototypes are negatives. There are no other negatives, no momentum encoder and no queue, as in [GPC]'s
    code; Li et al. have all three. The order of queries changes nothing, nor that of prototypes.

    Source
    ------
    [GPC] §3 and the released code.

    Examples
    --------
    >>> prototypes = torch.eye(2)
    >>> prototypical_contrast(prototypes, prototypes, torch.tensor([0, 1]), torch.tensor([0.5, 0.5]))
    tensor(0.1269)
    """
    logits = queries @ prototypes.detach().mT / concentrations.detach()
    total = cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total / (labels >= 0).sum().clamp(min=1)


def supervised_contrast(features: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Return the loss by which rows of one class attract each other.

    The mean over rows i of ``-mean_{p: y_p = y_i, p ≠ i} log [exp(z_i·z_p / τ) / Σ_{a ≠ i} exp(z_i·z_a / τ)]``.

    Parameters
    ----------
    features : Tensor (n, n_features)
        Of unit length.
    labels : Tensor (n,), int64
        -1 for a row without a label: it neither attracts nor repels.
    temperature : float
        τ, positive. Default 0.07, as in both papers.

    Returns
    -------
    Tensor ()
        Not negative; 0 where no two rows have the same label.

    Notes
    -----
    A row that is alone in its class repels and has no loss of its own; the authors' code, which always has two views,
    divides by 0 there. Holds (n, n) numbers: for batches.

    Source
    ------
    Khosla et al., NeurIPS 2020, Eq. 2 (the sum over positives outside the logarithm); on labelled rows, [GCD] Eq. 2.

    Examples
    --------
    >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> supervised_contrast(rows, torch.tensor([4, 4, 7]), temperature=1.0)
    tensor(0.3133)
    """
    is_labelled = labels >= 0
    rows, classes = features[is_labelled], labels[is_labelled]
    is_itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    log_probs = (rows @ rows.mT / temperature).masked_fill(is_itself, -torch.inf).log_softmax(1)
    is_positive = (classes[:, None] == classes) & ~is_itself
    n_positive = is_positive.sum(1)
    per_row = -log_probs.masked_fill(~is_positive, 0.0).sum(1) / n_positive.clamp(min=1)
    return per_row.sum() / (n_positive > 0).sum().clamp(min=1)


def info_nce(view_1: Tensor, view_2: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the loss by which two views of a row attract each other: `supervised_contrast` with a class for each row.

    Parameters
    ----------
    view_1, view_2 : Tensor (n, n_features)
        Of unit length, row for row views of the same.
    temperature : float
        Positive. Default 1, as in [GCD]'s code.

    Returns
    -------
    Tensor ()
        Not negative. Swapping the views changes nothing.

    Notes
    -----
    Cached features have no views as images have: see `noisy_view` and `dropout_view` for what stands in.

    Source
    ------
    [GCD] Eq. 1 and the released code: both views of all other rows are negatives.

    Examples
    --------
    >>> info_nce(torch.eye(2), torch.eye(2))
    tensor(0.5514)
    """
    rows = torch.arange(len(view_1), device=view_1.device).repeat(2)
    return supervised_contrast(torch.cat([view_1, view_2]), rows, temperature)


@torch.no_grad()
def class_spread(features: Tensor, labels: Tensor, n_known: int) -> Tensor:
    """Return the lower triangular L with L Lᵀ the covariance within labelled classes, for `noisy_view`.

    Parameters
    ----------
    features : Tensor (n, n_features)
    labels : Tensor (n,), int64
        In [0, n_known), or -1.
    n_known : int

    Returns
    -------
    Tensor (n_features, n_features)
        Of the features' dtype. The covariance is shrunk, see `fewshot.discovery.space.whiten_within`; where no class
        has two labelled rows it is a tenth of all rows' variance in every direction.

    Examples
    --------
    >>> class_spread(torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([0, 0, -1]), 1)
    tensor([[1.4142]])
    """
    centered = features - features.mean(0, dtype=torch.float64).to(features.dtype)
    factor: Tensor = torch.linalg.cholesky(within_covariance(centered, labels, n_known))
    return factor.to(features.dtype)


def noisy_view(features: Tensor, spread: Tensor, noise: float, *, generator: torch.Generator) -> Tensor:
    """Return ``x + noise · L ε``, ε standard normal: rows moved as members of a class differ from each other.

    Parameters
    ----------
    features : Tensor (n, n_features)
    spread : Tensor (n_features, n_features)
        L, from `class_spread`.
    noise : float
        At 1 a view is as far from its row as a labelled row is from the mean of its class.
    generator : torch.Generator

    Returns
    -------
    Tensor (n, n_features)

    Notes
    -----
    Stands in for crops and colours, of which cached features know nothing: it says what differs *within* classes by the
    labelled ones alone, and adds nothing that is not in the features.
    """
    drawn = torch.randn(features.shape, generator=generator, device=generator.device, dtype=features.dtype)
    return features + noise * drawn.to(features.device) @ spread.mT


def dropout_view(features: Tensor, share: float, *, generator: torch.Generator) -> Tensor:
    """Return rows of which a random ``share`` of entries, in [0, 1), is set to 0 and the rest divided by 1 - share.

    The other way to make views of cached features, one that needs no label. It depends on the axes: features that were
    rotated have other views.

    Examples
    --------
    >>> dropout_view(torch.ones(1, 6), 0.5, generator=torch.Generator().manual_seed(0)).tolist()
    [[0.0, 2.0, 0.0, 0.0, 0.0, 2.0]]
    """
    drawn = torch.rand(features.shape, generator=generator, device=generator.device)
    return features * (drawn >= share).to(features) / (1 - share)
