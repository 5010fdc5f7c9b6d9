"""What a careful person writes without this library: one episode at a time. The named baseline of the ratios."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.reference.sampler_loop import LoopEpisodeSampler

__all__ = ["loop_episodes", "loop_nearest_prototype", "loop_unem"]


def loop_episodes(features: Tensor, labels: list[int], n_episodes: int, **settings: int):
    """Yield support, support labels, query and query labels of one episode after the other."""
    for episode in LoopEpisodeSampler(labels, n_episodes=n_episodes, **settings):
        yield (
            features[torch.tensor(episode.support_index)],
            torch.tensor(episode.support_labels),
            features[torch.tensor(episode.query_index)],
            torch.tensor(episode.query_labels),
        )


def loop_nearest_prototype(support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return log-probabilities (n_queries, n_way)."""
    prototypes = torch.stack([support[support_labels == k].mean(0) for k in range(n_way)])
    return (-0.5 * torch.cdist(query, prototypes).square()).log_softmax(-1)


def loop_unem(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    n_way: int,
    scale: float,
    class_balance: list[float],
    temperature: list[float],
) -> Tensor:
    """Return log-probabilities (n_queries, n_way) of unrolled EM with Gaussian classes, as in the paper's equations."""
    support, query = scale * support, scale * query
    one_hot = torch.nn.functional.one_hot(support_labels, n_way).to(query.dtype)
    means = torch.stack([support[support_labels == k].mean(0) for k in range(n_way)])
    log_proportions = torch.zeros(n_way)
    for balance, t in zip(class_balance, temperature, strict=True):
        log_likelihood = -0.5 * torch.cdist(query, means).square()
        log_u = ((log_likelihood + balance * log_proportions) / t).log_softmax(-1)
        u = log_u.exp()
        log_proportions = (u.mean(0) + 1e-6).log()
        means = (u.T @ query + one_hot.T @ support) / (u.sum(0) + one_hot.sum(0))[:, None]
    return log_u
