"""Nearest prototype: the inductive baseline of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fewshot_episodes import Episode
from torch import Tensor

from fewshot.prototypes import class_means, log_softmax_over_ways, prototype_logits, way_logits

__all__ = ["NearestPrototype", "nearest_prototype_log_probs"]


def nearest_prototype_log_probs(episode: Episode) -> Tensor:
    """Return log softmax_k( -½‖z_n - mean of class k‖² ), shape (..., n_queries, n_way)."""
    prototypes = class_means(episode.support, episode.support_labels, episode.n_way)
    logits = prototype_logits(episode.query, prototypes)
    return log_softmax_over_ways(way_logits(logits, episode.way_mask if episode.is_ragged else None))


@dataclass(frozen=True, slots=True)
class NearestPrototype:
    """Classify each query by the nearest mean of the support, in Euclidean distance.

    Source
    ------
    Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017, on frozen features.

    Examples
    --------
    >>> import torch
    >>> episode = Episode(support=torch.eye(2), support_labels=torch.tensor([0, 1]),
    ...                   query=torch.tensor([[0.9, 0.2]]), class_ids=torch.tensor([0, 1]))
    >>> NearestPrototype()(episode).argmax(-1).tolist()
    [0]
    """

    is_transductive: ClassVar[bool] = False

    def __call__(self, episode: Episode) -> Tensor:
        """Return log-probabilities, shape (..., n_queries, n_way)."""
        return nearest_prototype_log_probs(episode)

    def describe(self) -> str:
        """Describe the settings in one line."""
        return "Euclidean distance on features as they are"
