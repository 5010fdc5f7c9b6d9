"""PADDLE: EM on features scaled to the range of the queries; without its prior, soft k-means."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from fewshot_episodes import Episode
from torch import Tensor

from fewshot.checks import check_non_negative, check_positive
from fewshot.em import EMResult
from fewshot.episodic.em_gaussian import EMGaussian

__all__ = ["Paddle", "range_scaled"]


def range_scaled(episode: Episode) -> Episode:
    """Divide each feature by its range over the episode's queries; a constant feature is left as it is.

    Source
    ------
    [PADDLE] released code; its shift is left out, since it changes no Euclidean distance.
    """
    query = episode.query
    if episode.query_mask is None:
        low, high = query.amin(-2, keepdim=True), query.amax(-2, keepdim=True)
    else:
        is_real = episode.query_mask[..., None]
        low = query.masked_fill(~is_real, torch.inf).amin(-2, keepdim=True)
        high = query.masked_fill(~is_real, -torch.inf).amax(-2, keepdim=True)
    span = torch.where(high > low, high - low, 1.0)
    return replace(episode, support=episode.support / span, query=query / span)


@dataclass(frozen=True, slots=True)
class Paddle:
    """EM with a penalty on the number of effective classes.

    Parameters
    ----------
    class_balance : float
        λ/|Q|. Default 1: α = 75 with 75 queries, as in the authors' configuration. 0 is soft k-means with clamped
        support, in the form that the authors compare with (Ren et al., ICLR 2018).
    n_layers : int
        EM iterations. Default 100, as in the authors' configuration; fewer are often better.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Source
    ------
    [PADDLE] Algorithm 1.
    """

    is_transductive: ClassVar[bool] = True
    class_balance: float = 1.0
    n_layers: int = 100

    def __post_init__(self) -> None:
        check_non_negative("class_balance", self.class_balance)
        check_positive("n_layers", self.n_layers)

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        return self.solve(episode).log_responsibilities

    def solve(self, episode: Episode) -> EMResult:
        """Return responsibilities, last state and warning flags."""
        em = EMGaussian(scale=1.0, class_balance=self.class_balance, n_layers=self.n_layers, is_relative=False)
        return em.solve(range_scaled(episode))

    def describe(self) -> str:
        """Describe the settings in one line."""
        return f"features scaled to the queries' range, class balance {self.class_balance:g}, {self.n_layers} layers"
