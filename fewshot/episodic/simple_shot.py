"""SimpleShot: center, scale to unit length, nearest prototype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fewshot_episodes import Episode
from torch import Tensor

from fewshot.episodic.bd_cspn import class_averages, unit_items
from fewshot.prototypes import log_softmax_over_ways, way_logits

__all__ = ["SimpleShot"]


@dataclass(frozen=True, slots=True, eq=False)
class SimpleShot:
    """Nearest prototype after CL2N: subtract the mean of the base classes, then L2-normalise.

    Parameters
    ----------
    center : Tensor (n_features,), optional
        Mean feature of the base (training) classes. Without it the features are only normalised (the paper's L2N):
        a mean taken from the episode would make the method transductive.

    Source
    ------
    Wang, Chao, Weinberger and van der Maaten, "SimpleShot", arXiv 1911.04623, Section 3.
    """

    is_transductive: ClassVar[bool] = False
    center: Tensor | None = None

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        support, query = unit_items(episode.support, self.center), unit_items(episode.query, self.center)
        prototypes = class_averages(support, episode)
        # -½‖z - p‖² up to a constant of z; the features are not copied to be scaled
        logits = (query.dot(prototypes) - 0.5 * prototypes.square().sum(-1, keepdim=True)).mT
        return log_softmax_over_ways(way_logits(logits, episode.way_mask if episode.is_ragged else None))

    def describe(self) -> str:
        """Describe the settings in one line."""
        return "L2-normalised features" if self.center is None else "centered on the base mean, L2-normalised features"
