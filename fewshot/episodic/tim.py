"""TIM: transductive information maximisation, by closed-form updates (TIM-ADM) and by gradient descent (TIM-GD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from fewshot_episodes import Episode
from torch import Tensor

from fewshot.episodic.solvers.prototype_descent import (
    PrototypeDescent,
    centered_unit_episode,
    check_settings,
    described,
    real_counts,
    real_queries,
)
from fewshot.prototypes import log_softmax_over_ways, one_hot, softmax_over_ways, way_logits

__all__ = ["TimADM", "TimGD", "adm_assignments", "adm_coefficients"]

# The least ln p in a round, p = 1e-20: changes no answer, and products stay normal numbers, which a CPU is fast with.
LOG_FLOOR = -46.0


def adm_assignments(
    log_probs: Tensor,
    marginal_entropy_weight: float,
    conditional_entropy_weight: float,
    query_mask: Tensor | None = None,
    way_mask: Tensor | None = None,
) -> Tensor:
    """Update the queries' latent assignments: q_nk ∝ p_nk^(1+c) / ( Σ_m p_mk^(1+c) )^(b/(1+b)).

    Parameters
    ----------
    log_probs : Tensor (..., n_way, n_queries)
        ln p, way by way.
    marginal_entropy_weight, conditional_entropy_weight : float
        b and c, not negative.
    query_mask, way_mask : Tensor (..., n_queries) and (..., n_way), bool, optional
        Which queries and ways are real.

    Returns
    -------
    Tensor (..., n_way, n_queries)
        Assignments, each column summing to 1.

    Source
    ------
    [TIM] Proposition 1, for b = 1; the exponent for other b as in the released code.

    Examples
    --------
    >>> log_probs = torch.tensor([[0.9, 0.6, 0.6], [0.1, 0.4, 0.4]]).log()
    >>> adm_assignments(log_probs, 1.0, 0.0)
    tensor([[0.8549, 0.4955, 0.4955],
            [0.1451, 0.5045, 0.5045]])
    """
    powered = (1 + conditional_entropy_weight) * log_probs
    counted = powered if query_mask is None else powered.masked_fill(~query_mask[..., None, :], -torch.inf)
    log_sums = counted.logsumexp(-1, keepdim=True)
    bracket = powered - marginal_entropy_weight / (1 + marginal_entropy_weight) * log_sums
    return softmax_over_ways(way_logits(bracket.mT, way_mask)).mT


def adm_coefficients(coefficients: Tensor, probs: Tensor, targets: Tensor, item_weights: Tensor) -> Tensor:
    """Update the prototypes, as coefficients over the episode's items.

    With t the labels of the support and the assignments of the queries, and r_n the weight of item n,

        w_k ← ( Σ_n r_n (t_nk - p_nk) z_n + w_k Σ_n r_n p_nk ) / Σ_n r_n t_nk.

    Parameters
    ----------
    coefficients : Tensor (..., n_way, n_items)
        Row k makes w_k.
    probs, targets : Tensor (..., n_way, n_items)
        p and t.
    item_weights : Tensor (..., 1, n_items)
        r: a / (1 + c) for support items, |S| / |Q| for queries, 0 for padding.

    Source
    ------
    [TIM] Proposition 1, with the weights of the released code.
    """
    pull = (targets - probs) * item_weights
    kept = (probs * item_weights).sum(-1, keepdim=True)
    weight = (targets * item_weights).sum(-1, keepdim=True)
    return torch.addcmul(pull, kept, coefficients) / weight.clamp(min=torch.finfo(weight.dtype).tiny)


@dataclass(frozen=True, slots=True)
class TimADM:
    r"""Maximise the mutual information of queries and labels by alternating closed-form updates.

    On unit-length features, with p_nk = softmax_k( -½ τ ‖z_n - w_k‖² ) and π = mean_Q p_n,

        min over W:   a · mean_S( -ln p_{n y_n} ) - b · H(π) + c · mean_Q H(p_n),

    by turns in latent assignments of the queries, `adm_assignments`, and in the prototypes, `adm_coefficients`.

    Parameters
    ----------
    cross_entropy_weight, marginal_entropy_weight, conditional_entropy_weight : float
        a, b and c. Defaults 0.1, 1 and 0.1, as in the released code.
    softmax_scale : float
        τ. Default 15, as there.
    n_steps : int
        Rounds. Default 150, as there.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Notes
    -----
    **The marginal term draws the classes towards equal sizes**: where queries are unbalanced, worse than plain
    prototypes; see `AlphaTim`.

    Differentiable. Invariant to a rotation and to the scale of the features. The prototypes are kept as coefficients
    over the items, so that a round works on inner products; where the items are many more than the features, it goes
    through the features. The number of rounds is fixed. Computed in float64 whatever the dtype of the features: over
    150 rounds, the rounding of float32 would decide between classes for queries that are torn between them.

    Different from the authors' code: powers and sums are taken in logarithms, and the features are moved to the
    support's mean, neither of which changes a result but by rounding.

    Source
    ------
    [TIM] Proposition 1; the released code, whose full step is the default there.

    Examples
    --------
    >>> episode = Episode(support=torch.eye(2), support_labels=torch.tensor([0, 1]),
    ...                   query=torch.tensor([[0.9, 0.2], [0.7, 0.6]]), class_ids=torch.tensor([0, 1]))
    >>> TimADM()(episode).argmax(-1).tolist()
    [0, 1]
    """

    is_transductive: ClassVar[bool] = True
    cross_entropy_weight: float = 0.1
    marginal_entropy_weight: float = 1.0
    conditional_entropy_weight: float = 0.1
    softmax_scale: float = 15.0
    n_steps: int = 150

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        unit = centered_unit_episode(episode.to(dtype=torch.float64))
        items = torch.cat([unit.support, unit.query], dim=-2)
        labels = one_hot(unit.support_labels, unit.n_way, items.dtype).mT
        n_support = labels.shape[-1]
        item_weights = self._item_weights(unit, labels)
        masks = (unit.query_mask, unit.way_mask if unit.is_ragged else None)
        gram = items @ items.mT if _is_gram_cheaper(items.shape[-2], items.shape[-1], self.n_steps) else None
        starts = labels / labels.sum(-1, keepdim=True).clamp(min=1)
        coefficients = torch.cat([starts, starts.new_zeros(*starts.shape[:-1], unit.n_queries)], dim=-1)
        for _ in range(self.n_steps):
            log_probs = self._log_probs(coefficients, items, gram, masks[1]).clamp(min=LOG_FLOOR)
            weights = (self.marginal_entropy_weight, self.conditional_entropy_weight)
            assignments = adm_assignments(log_probs[..., n_support:], *weights, *masks)
            targets = torch.cat([labels, assignments], dim=-1)
            coefficients = adm_coefficients(coefficients, log_probs.exp(), targets, item_weights)
        return self._log_probs(coefficients, items, gram, masks[1])[..., n_support:].mT.to(episode.query.dtype)

    def describe(self) -> str:
        """Describe the settings in one line."""
        return f"{described(self)}, {self.n_steps} closed-form rounds"

    def _item_weights(self, episode: Episode, labels: Tensor) -> Tensor:
        n_support, n_queries = real_counts(episode)
        of_support = self.cross_entropy_weight / (1 + self.conditional_entropy_weight) * labels.sum(-2, keepdim=True)
        of_queries = (n_support / n_queries)[..., None, None] * real_queries(episode)[..., None, :]
        return torch.cat([of_support, of_queries], dim=-1)

    def _log_probs(self, coefficients: Tensor, items: Tensor, gram: Tensor | None, way_mask: Tensor | None) -> Tensor:
        """Return ln p, way by way, (..., n_way, n_items), from z_n·w_k - ½‖w_k‖²."""
        products = coefficients @ gram if gram is not None else (coefficients @ items) @ items.mT
        squared_norms = (coefficients * products).sum(-1, keepdim=True)
        logits = self.softmax_scale * (products - 0.5 * squared_norms)
        return log_softmax_over_ways(way_logits(logits.mT, way_mask)).mT


@dataclass(frozen=True, slots=True)
class TimGD(PrototypeDescent):
    """Maximise the mutual information of queries and labels by gradient descent on the prototypes.

    The objective of `TimADM`, by Adam from the class means on closed-form gradients, see
    `fewshot.episodic.solvers.prototype_descent`.

    Parameters
    ----------
    cross_entropy_weight, marginal_entropy_weight, conditional_entropy_weight : float
        Defaults 0.1, 1 and 0.1, as in the released code.
    softmax_scale : float
        Default 15, as there.
    learning_rate : float
        Adam's. Default 1e-4, as there.
    n_steps : int
        Default 1000, as in the scripts of the released code.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Notes
    -----
    **The marginal term draws the classes towards equal sizes**, as in `TimADM`. Carries no gradients. Adam looks at one
    coordinate at a time: a rotation of the features changes the answer, and there is no Gram form.

    Source
    ------
    [TIM] TIM-GD, and the released code.
    """

    cross_entropy_weight: float = 0.1
    marginal_entropy_weight: float = 1.0
    conditional_entropy_weight: float = 0.1
    softmax_scale: float = 15.0
    learning_rate: float = 1e-4
    n_steps: int = 1000


def _is_gram_cheaper(n_items: int, n_features: int, n_steps: int) -> bool:
    """Choose by multiply-adds per class, weighing those of the Gram matrix by a quarter."""
    n, d = n_items, n_features
    return n * n * d / 4 + n_steps * n * n < 2 * n_steps * n * d
