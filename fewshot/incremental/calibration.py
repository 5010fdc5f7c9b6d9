"""Calibration of few-shot prototypes by the base classes: TEEN, and an empirical Bayes rule of our own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.prototypes import l2_normalize

__all__ = [
    "RESTORATION",
    "BasePrior",
    "anchor_weights",
    "calibrate_prototypes",
    "debiased_norms",
    "fit_base_prior",
    "posterior_prototypes",
]

# The default of `posterior_prototypes`.
RESTORATION = 2 / 3

# The smallest share of a squared length that is taken for signal: an estimate below it is noise itself.
_FLOOR = 0.25

# Rows of the base classes' table of weights that are held at a time.
_CHUNK = 1024


class BasePrior(NamedTuple):
    """Prior of a new class, fitted on the base classes; every entry has shape (...).

    Attributes
    ----------
    within_trace
        Trace of the classes' common covariance.
    prior_shots
        κ ≥ 0: how many shots the prior is worth.
    gain
        g: the prior mean of a class is g times the weighted mean d of the other classes' prototypes.
    squared_norm
        Mean of ‖μ‖² over classes.
    cross, squared_delta
        Mean of ⟨μ, d⟩ and of ‖d‖².
    """

    within_trace: Tensor
    prior_shots: Tensor
    gain: Tensor
    squared_norm: Tensor
    cross: Tensor
    squared_delta: Tensor


def anchor_weights(prototypes: Tensor, anchors: Tensor, *, softmax_scale: float = 16.0) -> Tensor:
    """Weigh anchors by their similarity to prototypes: w_nk = softmax_k(softmax_scale · cos(c_n, b_k)).

    Parameters
    ----------
    prototypes : Tensor (..., n_new, n_features)
    anchors : Tensor (..., n_base, n_features)
    softmax_scale : float
        τ, which **multiplies** the cosine; 16 in the original's code. 0 weighs all anchors alike.

    Returns
    -------
    Tensor (..., n_new, n_base)
        Not negative, sums to 1.

    Source
    ------
    [TEEN], and its released code.

    Examples
    --------
    >>> anchor_weights(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]]), softmax_scale=1.0)
    tensor([[0.7311, 0.2689]])
    """
    cosines: Tensor = l2_normalize(prototypes) @ l2_normalize(anchors).mT
    return (softmax_scale * cosines).softmax(-1)


def calibrate_prototypes(
    base: Tensor,
    new: Tensor,
    *,
    softmax_scale: float = 16.0,
    shift_weight: float = 0.5,
    renormalize_delta: bool = True,
) -> Tensor:
    """Pull each new prototype towards the base prototypes that resemble it.

    With b, c the unit vectors along base and new prototypes: d_n = Σ_k w_nk b_k, scaled to unit length, and
    c̄_n = (1 - shift_weight) c_n + shift_weight d_n.

    Parameters
    ----------
    base : Tensor (..., n_base, n_features)
        Means of the base classes' features, of any length.
    new : Tensor (..., n_new, n_features)
        Means of the new classes' few shots.
    softmax_scale : float
        τ of `anchor_weights`; 16.
    shift_weight : float
        Share of the base blend, in [0, 1]: 1 - α of the paper. 0.5 for miniImageNet and CUB-200, 0.1 for CIFAR-100.
    renormalize_delta : bool
        The authors' code scales d to unit length; their formula does not.

    Returns
    -------
    Tensor (..., n_new, n_features)
        Of length at most 1, for a **cosine** classifier: neither Euclidean distance nor a dot product will do.

    Raises
    ------
    ValueError
        If a setting is out of range, or there is no base class.

    Notes
    -----
    Base prototypes are not changed, and a new class does not depend on its companions: one at a time, a session at a
    time and all at once give the same. Positive scales of prototypes change nothing, a rotation of all rotates the
    result; a shift of all, or a base class given twice, does change it. Calibrating twice is not calibrating once.

    Source
    ------
    [TEEN], with the normalisations of its released code.

    Examples
    --------
    >>> base, new = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 4.0]])
    >>> calibrate_prototypes(base, new, softmax_scale=0.0, shift_weight=1.0)
    tensor([[0.7071, 0.7071]])
    >>> calibrate_prototypes(base, new, shift_weight=0.0)
    tensor([[0.6000, 0.8000]])
    """
    _check_settings(base, softmax_scale, shift_weight)
    anchors = l2_normalize(base)
    return calibrated(anchors, new, softmax_scale, shift_weight, renormalize_delta)


def calibrated(
    anchors: Tensor, new: Tensor, softmax_scale: float, shift_weight: float, renormalize_delta: bool
) -> Tensor:
    """Calibrate prototypes as `calibrate_prototypes` does, for anchors (..., n_base, n_features) of unit length."""
    unit = l2_normalize(new)
    delta = (softmax_scale * unit @ anchors.mT).softmax(-1) @ anchors
    if renormalize_delta:
        delta = l2_normalize(delta)
    return (1 - shift_weight) * unit + shift_weight * delta


def debiased_norms(
    prototypes: Tensor, n_shots: Tensor, within_trace: Tensor | float, *, floor: float = _FLOOR
) -> Tensor:
    """Estimate the length of class means from means of a few shots: √max(‖c‖² - trΣ / K, floor · ‖c‖²).

    A mean of K shots is too long, E‖c‖² = ‖μ‖² + trΣ / K, so its cosine with every query is too small; divided by this
    length instead, classes of few shots and of many compete on equal terms.

    Parameters
    ----------
    prototypes : Tensor (..., n_classes, n_features)
    n_shots : Tensor (..., n_classes)
        K, at least 1.
    within_trace : Tensor (...) or float
        trΣ: the trace of the covariance within the classes.
    floor : float
        Smallest share of ‖c‖² that is kept, in (0, 1]: at one shot the estimate can fall below zero.

    Returns
    -------
    Tensor (..., n_classes)
        Positive unless the prototype is zero.

    Source
    ------
    Our own; not in [TEEN].

    Examples
    --------
    >>> debiased_norms(torch.tensor([[3.0, 4.0]]), torch.tensor([2.0]), 18.0)
    tensor([4.])
    """
    squared: Tensor = torch.linalg.vector_norm(prototypes, dim=-1).square()
    noise = torch.as_tensor(within_trace, dtype=squared.dtype, device=squared.device)[..., None] / n_shots
    return torch.maximum(squared - noise, floor * squared).sqrt()


def fit_base_prior(
    base: Tensor, n_items: Tensor, within_trace: Tensor | float, *, softmax_scale: float = 16.0
) -> BasePrior:
    """Learn from the base classes how well the others foretell one: each is left out in turn.

    With d_b the mean of the other prototypes, weighted as in `anchor_weights`, the prior of a class mean is
    N(g d, τ² / n_features), where g = Σ_b ⟨P_b, d_b⟩ / Σ_b ‖d_b‖² and τ² is the mean of ‖P_b - g d_b‖² less what
    sampling noise adds to it; κ = trΣ / τ².

    Parameters
    ----------
    base : Tensor (..., n_base, n_features)
        Raw means of at least two base classes.
    n_items : Tensor (..., n_base)
        How many items each is the mean of.
    within_trace : Tensor (...) or float
        trΣ, the trace of the covariance within the base classes.
    softmax_scale : float

    Returns
    -------
    BasePrior

    Raises
    ------
    ValueError
        If there are fewer than two base classes.

    Source
    ------
    Our own.
    """
    if base.shape[-2] < 2:
        raise ValueError(
            f"shift_weight='auto' needs two base classes or more to learn from, got {base.shape[-2]}: "
            "learn the base session first, or set shift_weight to a number"
        )
    trace = torch.as_tensor(within_trace, dtype=base.dtype, device=base.device)
    cross, squared_delta, squared_weights = _leave_one_out(base, softmax_scale)
    noise = trace * (1 / n_items).mean(-1)
    squared = torch.linalg.vector_norm(base, dim=-1).square().mean(-1)
    tiny = torch.finfo(base.dtype).tiny
    gain = cross / squared_delta.clamp(min=tiny)
    residual = squared - 2 * gain * cross + gain.square() * squared_delta
    prior_variance = torch.maximum(residual - noise * (1 + squared_weights), 1e-6 * trace).clamp(min=tiny)
    return BasePrior(trace, trace / prior_variance, gain, (squared - noise).clamp(min=0), cross, squared_delta)


def _leave_one_out(base: Tensor, softmax_scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the means over b of ⟨P_b, d_b⟩, ‖d_b‖² and Σ_j w_bj²."""
    n_base, anchors = base.shape[-2], l2_normalize(base)
    sums = [base.new_zeros(base.shape[:-2]) for _ in range(3)]
    for start in range(0, n_base, _CHUNK):
        left_out = torch.arange(start, min(start + _CHUNK, n_base), device=base.device)
        prototypes = base[..., left_out, :]
        logits = softmax_scale * anchors[..., left_out, :] @ anchors.mT
        weights = logits.masked_fill(left_out[:, None] == torch.arange(n_base, device=base.device), -torch.inf)
        weights = weights.softmax(-1)
        delta = weights @ base
        for total, part in zip(sums, (prototypes * delta, delta.square(), weights.square()), strict=True):
            total += part.sum((-2, -1))
    return sums[0] / n_base, sums[1] / n_base, sums[2] / n_base


def posterior_prototypes(
    base: Tensor,
    new: Tensor,
    n_shots: Tensor,
    prior: BasePrior,
    *,
    softmax_scale: float = 16.0,
    restoration: float = RESTORATION,
) -> Tensor:
    """Estimate class means and their lengths from few shots and the base classes: `shift_weight` without a setting.

    The mean is s c + (1 - s) g d, with c the mean of the shots, d the weighted mean of the base prototypes and
    s = √(K / (K + κ)). It is divided by its length times (1 - ε)^(restoration / 2), where ε is the share of sampling
    noise in its expected squared length, at most 3/4.

    Parameters
    ----------
    base : Tensor (..., n_base, n_features)
        Raw means of the base classes.
    new : Tensor (..., n_new, n_features)
        Raw means of the new classes' shots.
    n_shots : Tensor (..., n_new)
        K, at least 1.
    prior : BasePrior
        Of these base classes.
    softmax_scale : float
    restoration : float
        How much of the length that is mere noise is taken off, in [0, 1]: at 1 a class's own items score as if its
        mean were known, and those of other classes have more noise added; at 0 the other way round. Chosen on the
        CUB-50 features alone; 0.5 to 0.8 do almost as well.

    Returns
    -------
    Tensor (..., n_new, n_features)
        To be multiplied with unit features, beside **unit** base prototypes. Length 1 or a little more.

    Notes
    -----
    The posterior mean has K / (K + κ) in place of its root. It is best for each class alone, but means estimated so lie
    closer together, and closer to the base classes, than true ones do; with the root their spread is that of the prior,
    and it is as competitors that prototypes are used. ε depends on K and the prior alone: a class's own length is too
    noisy an estimate at one shot, where `debiased_norms` over-corrects.

    A new class does not depend on its companions. As K grows, the result tends to the unit vector along the mean.

    Source
    ------
    Our own. The root: T. A. Louis, "Estimating a population of parameter values using Bayes and empirical Bayes
    methods", JASA 79, 1984.
    """
    delta = anchor_weights(new, base, softmax_scale=softmax_scale) @ base
    return posterior_blend(new, delta, n_shots, prior, restoration)


def posterior_blend(new: Tensor, delta: Tensor, n_shots: Tensor, prior: BasePrior, restoration: float) -> Tensor:
    """Compute `posterior_prototypes` from the weighted means ``delta`` (..., n_new, n_features) of the base."""
    trace, prior_shots, gain, squared_norm, cross, squared_delta = (entry[..., None] for entry in prior)
    share = (n_shots / (n_shots + prior_shots)).sqrt()
    noise = share.square() * trace / n_shots
    signal = share.square() * squared_norm
    signal = signal + 2 * share * (1 - share) * gain * cross + ((1 - share) * gain).square() * squared_delta
    kept = signal / (signal + noise).clamp(min=torch.finfo(new.dtype).tiny)
    attenuation = kept.clamp(min=_FLOOR).pow(restoration / 2)
    means = share[..., None] * new + ((1 - share) * gain)[..., None] * delta
    return l2_normalize(means) / attenuation[..., None]


def _check_settings(base: Tensor, softmax_scale: float, shift_weight: float) -> None:
    if base.shape[-2] == 0:
        raise ValueError("calibration needs at least one base class, got none")
    if not softmax_scale >= 0:
        raise ValueError(f"softmax_scale must not be negative, got {softmax_scale}: it multiplies cosines (16)")
    if not 0 <= shift_weight <= 1:
        raise ValueError(
            f"shift_weight must lie in [0, 1], got {shift_weight}: it is the share of the base classes, 1 - α"
        )
