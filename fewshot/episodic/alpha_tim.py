"""α-TIM: information maximisation with Tsallis entropies, for queries that are not balanced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_positive
from fewshot.episodic.solvers.prototype_descent import PrototypeDescent, check_settings, real_counts

__all__ = ["BY_SHOT", "AlphaTim", "alpha_by_shot"]

BY_SHOT = "by-shot"


def alpha_by_shot(episode: Episode) -> Tensor:
    """Return the authors' α of each episode, (...): 2 at one shot, 7 from five shots on, 5 between.

    Unequal shots count by their mean: below 2 is one shot.

    Source
    ------
    [ATIM] released code and its configuration.
    """
    n_ways = episode.way_mask.sum(-1).clamp(min=1)
    shots = real_counts(episode)[0] / n_ways
    alpha = torch.full_like(shots, 5.0)
    return alpha.masked_fill(shots < 2, 2.0).masked_fill(shots >= 5, 7.0)


@dataclass(frozen=True, slots=True)
class AlphaTim(PrototypeDescent):
    """TIM whose marginal and conditional entropies are Tsallis's: H_α(p) = (1 - Σ_k p_k^α) / (α - 1).

    A larger α lets the marginal of the queries leave the uniform one at less cost. The loss, by Adam from the class
    means on closed-form gradients, is that of `fewshot.episodic.solvers.prototype_descent`; its cross-entropy is
    Shannon's.

    Parameters
    ----------
    alpha : float or "by-shot"
        α, positive; 1 is `TimGD` with these weights. ``by-shot``, the default as in the released code: `alpha_by_shot`.
    cross_entropy_weight, marginal_entropy_weight, conditional_entropy_weight : float
        Defaults 1, 1 and 1, as there.
    softmax_scale : float
        τ. Default 15, as there.
    learning_rate : float
        Adam's. Default 1e-4, as there.
    n_steps : int
        Default 1000, as there.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Notes
    -----
    The prior is softer than TIM's, but still drawn towards equal classes. Carries no gradients; a rotation of the
    features changes the answer, as with `TimGD`.

    Different from the authors' code: α by shot is each episode's own, shots may be unequal, and logarithms are cut off
    at the probability 1e-12 in place of adding it.

    Source
    ------
    [ATIM] α-entropies and loss; the released code's configuration.

    Examples
    --------
    >>> episode = Episode(support=torch.eye(2), support_labels=torch.tensor([0, 1]),
    ...                   query=torch.tensor([[0.9, 0.2], [0.7, 0.6]]), class_ids=torch.tensor([0, 1]))
    >>> AlphaTim(n_steps=50)(episode).argmax(-1).tolist()
    [0, 0]
    """

    alpha: float | str = BY_SHOT
    cross_entropy_weight: float = 1.0
    marginal_entropy_weight: float = 1.0
    conditional_entropy_weight: float = 1.0
    softmax_scale: float = 15.0
    learning_rate: float = 1e-4
    n_steps: int = 1000

    def __post_init__(self) -> None:
        if self.alpha != BY_SHOT:
            check_positive("alpha", _number(self.alpha))
        check_settings(self)

    def entropy_order(self, episode: Episode) -> float | Tensor:
        """Return α."""
        return alpha_by_shot(episode) if self.alpha == BY_SHOT else _number(self.alpha)

    def describe(self) -> str:
        """Describe the settings in one line."""
        alpha = "by shot" if self.alpha == BY_SHOT else f"{_number(self.alpha):g}"
        return f"α {alpha}, {PrototypeDescent.describe(self)}"


def _number(alpha: float | str) -> float:
    try:
        return float(alpha)
    except ValueError:
        raise ValueError(f"alpha must be a positive number or {BY_SHOT!r}, got {alpha!r}") from None
