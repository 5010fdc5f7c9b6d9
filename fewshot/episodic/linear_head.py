"""Heads fitted on the support alone: logistic regression, exactly, and Baseline++'s cosine head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_positive
from fewshot.episodic.solvers.adam import adam
from fewshot.episodic.solvers.logistic_dual import fit_logistic_dual
from fewshot.prototypes import class_means, l2_normalize, log_softmax_over_ways, one_hot, way_logits

__all__ = ["CosineHead", "LogisticHead"]


@dataclass(frozen=True, slots=True)
class LogisticHead:
    """Multinomial logistic regression on the support, with free intercepts: the minimum itself.

    min over W, b:   C · Σ_n - ln softmax_{y_n}( W z_n + b ) + ½ ‖W‖²

    Parameters
    ----------
    inverse_penalty : float
        C, as in scikit-learn. Default 1, as in [RFS].
    is_normalized : bool
        Scale features to unit length first. Default true, as in [RFS].

    Raises
    ------
    ValueError
        If a setting is out of range.

    Notes
    -----
    Inductive. Equal to scikit-learn's ``LogisticRegression(C=C)``; with two classes, where that has one weight vector
    in place of two, to ``LogisticRegression(C=2 * C)``. Solved in float64 whatever the dtype of the features, by
    `fit_logistic_dual`. Differentiable.

    Source
    ------
    [RFS], whose released code calls scikit-learn once per episode.

    Examples
    --------
    >>> episode = Episode(support=torch.eye(2), support_labels=torch.tensor([0, 1]),
    ...                   query=torch.tensor([[0.9, 0.2]]), class_ids=torch.tensor([0, 1]))
    >>> LogisticHead()(episode).argmax(-1).tolist()
    [0]
    """

    is_transductive: ClassVar[bool] = False
    inverse_penalty: float = 1.0
    is_normalized: bool = True

    def __post_init__(self) -> None:
        check_positive("inverse_penalty", self.inverse_penalty)

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        support, query = episode.support, episode.query
        if self.is_normalized:
            support, query = l2_normalize(support), l2_normalize(query)
        targets = one_hot(episode.support_labels, episode.n_way, torch.float64).mT
        weights = targets.sum(-2)[..., None].to(support.dtype)
        center = (support * weights).sum(-2, keepdim=True) / weights.sum(-2, keepdim=True)
        support, query = (support - center) * weights, query - center  # which the intercepts make up for
        scaled = self.inverse_penalty * support.double()
        dual = fit_logistic_dual(scaled @ support.double().mT, targets, episode.way_mask)
        logits = dual.logits((self.inverse_penalty * support @ query.mT).double())
        is_real = episode.way_mask if episode.is_ragged else None
        return log_softmax_over_ways(way_logits(logits.mT, is_real)).to(query.dtype)

    def describe(self) -> str:
        """Describe the settings in one line."""
        features = "L2-normalised features" if self.is_normalized else "features as they are"
        return f"{features}, inverse penalty {self.inverse_penalty:g}"


@dataclass(frozen=True, slots=True)
class CosineHead:
    """Baseline++: a head of cosines, p_nk = softmax_k( s · cos(z_n, w_k) ), trained on the support by cross-entropy.

    Parameters
    ----------
    softmax_scale : float
        s. Default 2, as in [CLOSER]'s code for up to 200 classes.
    learning_rate : float
        Adam's. Default 1e-3, as in the code of [ATIM].
    n_steps : int
        Default 100, as there, and as the epochs of [CLOSER].

    Raises
    ------
    ValueError
        If a setting is out of range.

    Notes
    -----
    Inductive. Carries no gradients; a rotation of the features changes the answer, as Adam looks at one coordinate at a
    time.

    Different from [CLOSER], which takes stochastic steps over batches of 4 with weight decay from random weights:
    whole-batch steps of Adam from the class means, as in [ATIM], so that nothing is drawn. [ATIM]'s code
    trains on distances and predicts by cosines; here both are cosines.

    Source
    ------
    [CLOSER] Baseline++.

    Examples
    --------
    >>> episode = Episode(support=torch.eye(2), support_labels=torch.tensor([0, 1]),
    ...                   query=torch.tensor([[0.9, 0.2]]), class_ids=torch.tensor([0, 1]))
    >>> CosineHead()(episode).argmax(-1).tolist()
    [0]
    """

    is_transductive: ClassVar[bool] = False
    softmax_scale: float = 2.0
    learning_rate: float = 1e-3
    n_steps: int = 100

    def __post_init__(self) -> None:
        check_positive("softmax_scale", self.softmax_scale)
        check_positive("learning_rate", self.learning_rate)
        check_positive("n_steps", self.n_steps)

    @torch.no_grad()
    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        unit = replace(episode, support=l2_normalize(episode.support), query=l2_normalize(episode.query))
        targets = one_hot(unit.support_labels, unit.n_way, unit.support.dtype).mT
        share = self.softmax_scale * targets.sum(-2, keepdim=True) / targets.sum((-2, -1), keepdim=True)
        way_mask = unit.way_mask if unit.is_ragged else None

        def log_probs(direction: Tensor, items: Tensor) -> Tensor:
            logits = self.softmax_scale * (direction @ items.mT)
            return log_softmax_over_ways(way_logits(logits.mT, way_mask))

        def gradient(w: Tensor) -> Tensor:
            length: Tensor = torch.linalg.vector_norm(w, dim=-1, keepdim=True).clamp(min=1e-12)
            direction = w / length
            pull = (share * (log_probs(direction, unit.support).mT.exp() - targets)) @ unit.support
            return (pull - (pull * direction).sum(-1, keepdim=True) * direction) / length

        start = class_means(unit.support, unit.support_labels, unit.n_way)
        w = adam(start, gradient, n_steps=self.n_steps, learning_rate=self.learning_rate)
        return log_probs(l2_normalize(w), unit.query)

    def describe(self) -> str:
        """Describe the settings in one line."""
        return f"cosines, softmax scale {self.softmax_scale:g}, {self.n_steps} steps of Adam at {self.learning_rate:g}"
