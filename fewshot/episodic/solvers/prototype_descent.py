r"""Prototypes moved by Adam on closed-form gradients: the engine of TIM-GD, α-TIM and transductive fine-tuning.

On unit-length features z the classifier is p_nk = softmax_k( -½ τ ‖z_n - w_k‖² ), started from the class means of the
support, and the loss of one episode is

    a · mean_S( -ln p_{n y_n} ) - b · H_α(π) + c · mean_Q H_α(p_n),    π = mean_Q p_n,

with the Tsallis entropy H_α(p) = (1 - Σ_k p_k^α) / (α - 1), at α = 1 Shannon's -Σ_k p_k ln p_k. Its gradient needs no
automatic differentiation: with h(x) = α x^(α-1) / (α-1), at α = 1 ln x,

    ∂/∂l_nk = a (p_nk - y_nk) / |S|  on the support,   p_nk ( s_nk - Σ_j p_nj s_nj ) / |Q|  on the queries,
    s_nk = b h(π_k) - c h(p_nk),      ∂/∂w_k = τ Σ_n ∂/∂l_nk (z_n - w_k).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Protocol

import torch
from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_non_negative, check_positive
from fewshot.episodic.solvers.adam import adam
from fewshot.prototypes import class_means, l2_normalize, log_softmax_over_ways, one_hot, prototype_logits, way_logits

__all__ = [
    "DescentSettings",
    "PrototypeDescent",
    "TimSettings",
    "centered_unit_episode",
    "check_settings",
    "described",
    "entropy_slope",
    "logit_gradient",
    "prototype_log_probs",
    "real_counts",
    "real_queries",
]

# Added to probabilities before their logarithm in the authors' code; here the least that an entropy sees.
PROBABILITY_FLOOR = 1e-12


class TimSettings(Protocol):
    """The settings of every method of this family."""

    @property
    def cross_entropy_weight(self) -> float:
        """The a of the loss."""

    @property
    def marginal_entropy_weight(self) -> float:
        """The b of the loss."""

    @property
    def conditional_entropy_weight(self) -> float:
        """The c of the loss."""

    @property
    def softmax_scale(self) -> float:
        """The τ of the classifier."""

    @property
    def n_steps(self) -> int:
        """How many steps are taken."""


class DescentSettings(TimSettings, Protocol):
    """Settings of the methods that descend."""

    @property
    def learning_rate(self) -> float:
        """Adam's step size."""

    def entropy_order(self, episode: Episode) -> float | Tensor:
        """Return the α of both entropies, see `logit_gradient`."""


class PrototypeDescent:
    """Common part of the methods that descend; each adds its settings."""

    __slots__ = ()
    is_transductive: ClassVar[bool] = True

    def __post_init__(self: DescentSettings) -> None:
        check_settings(self)

    def __call__(self: DescentSettings, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        return prototype_log_probs(episode, self, self.entropy_order(episode))

    def entropy_order(self, episode: Episode) -> float | Tensor:
        """Return the α of both entropies; 1 is Shannon's."""
        return 1.0

    def describe(self: DescentSettings) -> str:
        """Describe the settings in one line."""
        return f"{described(self)}, {self.n_steps} steps of Adam at rate {self.learning_rate:g}"


def check_settings(method: TimSettings) -> None:
    """Check the settings that every method of this family has.

    Raises
    ------
    ValueError
        If one is out of range.
    """
    check_positive("cross_entropy_weight", method.cross_entropy_weight)
    check_non_negative("marginal_entropy_weight", method.marginal_entropy_weight)
    check_non_negative("conditional_entropy_weight", method.conditional_entropy_weight)
    check_positive("softmax_scale", method.softmax_scale)
    check_positive("n_steps", method.n_steps)
    if hasattr(method, "learning_rate"):
        check_positive("learning_rate", method.learning_rate)


def described(method: TimSettings) -> str:
    """Describe these settings in one line."""
    return (
        f"L2-normalised features, softmax scale {method.softmax_scale:g}, weights of cross-entropy, marginal and "
        f"conditional entropy {method.cross_entropy_weight:g}, {method.marginal_entropy_weight:g}, "
        f"{method.conditional_entropy_weight:g}"
    )


def entropy_slope(log_probs: Tensor, alpha: float | Tensor) -> Tensor:
    """Return h(p) from ln p: minus the derivative of the entropy's terms, up to a constant that no gradient sees.

    Examples
    --------
    >>> entropy_slope(torch.tensor([0.5]).log(), 2.0)
    tensor([1.])
    """
    log_probs = log_probs.clamp(min=math.log(PROBABILITY_FLOOR))
    if isinstance(alpha, Tensor):
        alpha = alpha[..., None, None]
    elif alpha == 1:
        return log_probs
    return alpha / (alpha - 1) * ((alpha - 1) * log_probs).clamp(min=-80).exp()  # tinier ones are slow on a CPU


def logit_gradient(
    log_probs: Tensor,
    targets: Tensor,
    support_share: Tensor,
    query_share: Tensor,
    settings: TimSettings,
    alpha: float | Tensor = 1.0,
) -> Tensor:
    """Return the gradient of the loss with respect to the logits, way by way, the support first.

    Parameters
    ----------
    log_probs : Tensor (..., n_way, n_support + n_queries)
    targets : Tensor (..., n_way, n_support)
        One-hot labels.
    support_share, query_share : Tensor (..., 1, n_support) and (..., 1, n_queries)
        1/|S| and 1/|Q|; 0 for padding.
    settings : TimSettings
        For a, b and c.
    alpha : float or Tensor (...)
        α of both entropies; a tensor must not hold a 1.

    Returns
    -------
    Tensor (..., n_way, n_support + n_queries)
    """
    n_support = targets.shape[-1]
    probs = log_probs.exp()
    of_queries = probs[..., n_support:]
    weighted = of_queries * query_share
    slope = -settings.conditional_entropy_weight * entropy_slope(log_probs[..., n_support:], alpha)
    if settings.marginal_entropy_weight:
        log_marginal = weighted.sum(-1, keepdim=True).clamp(min=PROBABILITY_FLOOR).log()
        slope = slope + settings.marginal_entropy_weight * entropy_slope(log_marginal, alpha)
    on_queries = weighted * (slope - (of_queries * slope).sum(-2, keepdim=True))
    on_support = (probs[..., :n_support] - targets) * (settings.cross_entropy_weight * support_share)
    return torch.cat([on_support, on_queries], dim=-1)


def centered_unit_episode(episode: Episode) -> Episode:
    """Scale features to unit length, then move the support's mean to the origin, which changes no distance."""
    support, query = l2_normalize(episode.support), l2_normalize(episode.query)
    weights = (episode.support_labels >= 0).to(support.dtype)[..., None, :]
    center = weights @ support / weights.sum(-1, keepdim=True)
    return replace(episode, support=support - center, query=query - center)


def real_queries(episode: Episode) -> Tensor:
    """Return 1 for real queries and 0 for padding, (..., n_queries), in the dtype of the features."""
    if episode.query_mask is None:
        return torch.ones_like(episode.query[..., 0])
    return episode.query_mask.to(episode.query.dtype)


def real_counts(episode: Episode) -> tuple[Tensor, Tensor]:
    """Return |S| and |Q| without padding, each (...), in the dtype of the features."""
    n_support = (episode.support_labels >= 0).sum(-1).to(episode.query.dtype)
    return n_support, real_queries(episode).sum(-1).clamp(min=1)


@torch.no_grad()
def prototype_log_probs(episode: Episode, settings: DescentSettings, alpha: float | Tensor = 1.0) -> Tensor:
    """Move the class means by Adam, then classify.

    Parameters
    ----------
    episode : Episode
    settings : DescentSettings
    alpha : float or Tensor (...)
        α of both entropies, see `logit_gradient`.

    Returns
    -------
    Tensor (..., n_queries, n_way)
        Log-probabilities.

    Notes
    -----
    Runs without gradients: the answer carries none.
    """
    unit = centered_unit_episode(episode)
    items = torch.cat([unit.support, unit.query], dim=-2)
    targets = one_hot(unit.support_labels, unit.n_way, items.dtype).mT
    n_support, n_queries = real_counts(unit)
    support_share = targets.sum(-2, keepdim=True) / n_support[..., None, None]
    query_share = (real_queries(unit) / n_queries[..., None])[..., None, :]
    way_mask = unit.way_mask if unit.is_ragged else None
    scale = settings.softmax_scale

    def gradient(w: Tensor) -> Tensor:
        log_probs = _log_probs(items, w, scale, way_mask).mT
        g = scale * logit_gradient(log_probs, targets, support_share, query_share, settings, alpha)
        return torch.addcmul(g @ items, g.sum(-1, keepdim=True), w, value=-1)

    start = class_means(unit.support, unit.support_labels, unit.n_way)
    w = adam(start, gradient, n_steps=settings.n_steps, learning_rate=settings.learning_rate)
    return _log_probs(unit.query, w, scale, way_mask)


def _log_probs(items: Tensor, prototypes: Tensor, scale: float, way_mask: Tensor | None) -> Tensor:
    return log_softmax_over_ways(way_logits(scale * prototype_logits(items, prototypes), way_mask))
