"""SimpleShot: centre, scale to unit length, nearest prototype."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from episodes import Episode
from fewshot.episodic.nearest_prototype import nearest_prototype_log_probs
from fewshot.prototypes import l2_normalize

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
        return nearest_prototype_log_probs(
            replace(episode, support=self._transformed(episode.support), query=self._transformed(episode.query))
        )

    def describe(self) -> str:
        """Say in one line which settings are used."""
        return "L2-normalised features" if self.center is None else "centred on the base mean, L2-normalised features"

    def _transformed(self, features: Tensor) -> Tensor:
        return l2_normalize(features if self.center is None else features - self.center.to(features))
