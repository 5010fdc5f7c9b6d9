r"""Label-free statistics of an episode's regime: the number of classes among the queries, and their separation.

All numbers are free of the features' scale and of the counts of queries and ways: distances are in units of the
episode's own scatter, entropies in shares of their largest value. Each is continuous in the solution, so that rounding
never turns a decision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.special import entr

from fewshot.em import proportions
from fewshot.likelihoods.gaussian import GaussianDirect, GaussianGram

__all__ = ["N_EPISODE_STATISTICS", "N_SOLUTION_STATISTICS", "episode_statistics", "solution_statistics"]

N_EPISODE_STATISTICS = 6
N_SOLUTION_STATISTICS = 6
# Middle and spread of each statistic of the episodes that the shipped model learned on, rounded: beyond three spreads
# they are clipped, so that no network is asked about what it has never seen.
_MIDDLE = (1.2, 2.0, 1.8, 4.5, 3.5, 4.0)
_SPREAD = (1.0, 0.8, 1.2, 1.2, 1.2, 1.0)
_LIMIT = 3.0
_TINY = 1e-6
# The evidence is computed at half the precision of the unit: with all of it, most assignments are hard.
_PRECISION = 0.5


def episode_statistics(gaussian: GaussianDirect | GaussianGram, trace: Tensor) -> Tensor:
    """Describe an episode before any query is assigned.

    Parameters
    ----------
    gaussian : GaussianDirect or GaussianGram
        With precision 1 / unit, the unit being `fewshot.likelihoods.scatter.effective_variance`.
    trace : Tensor (...)
        Mean squared distance of items to their class means, in units.

    Returns
    -------
    Tensor (..., 6)
        Standardised logarithms of: shots; ways; queries per way; mean squared distance between prototypes; that of a
        prototype to its nearest one; ``trace``. In [-3, 3].
    """
    n_way, n_queries = n_ways_of(gaussian), n_queries_of(gaussian)
    mean_distance, nearest = _prototype_distances(gaussian, n_way)
    values = torch.stack(
        [
            _over_ways(gaussian.counts, gaussian.way_mask) / n_way,
            n_way,
            n_queries / n_way,
            mean_distance,
            nearest,
            trace,
        ],
        -1,
    )
    middle, spread = values.new_tensor(_MIDDLE), values.new_tensor(_SPREAD)
    return ((values.clamp(min=_TINY).log() - middle) / spread).clamp(-_LIMIT, _LIMIT)


def solution_statistics(
    gaussian: GaussianDirect | GaussianGram, trace: Tensor, log_responsibilities: Tensor, log_first: Tensor
) -> Tensor:
    """Describe a solution.

    Parameters
    ----------
    gaussian, trace
        As for `episode_statistics`.
    log_responsibilities : Tensor (..., n_queries, n_way)
        The solution.
    log_first : Tensor (..., n_queries, n_way)
        The prototypes' own answer to hold it against.

    Returns
    -------
    Tensor (..., 6)
        Entropy of the proportions and mean entropy of the assignments, as shares of ln n_way; largest proportion; mean
        agreement Σ_k u_nk v_nk with the first answer (these four from -1 to 1); logarithm of the mean squared distance
        of queries to their class, in shares of ``trace``; gain of the mixture's log-likelihood over that of the first
        answer with equal proportions, per query and in shares of ``trace``, times 5 and in [-3, 3].
    """
    u, first = log_responsibilities.exp(), log_first.exp()
    largest_entropy = n_ways_of(gaussian).clamp(min=2).log()
    share = proportions(u, gaussian.query_mask)
    logits = gaussian.class_logits(gaussian.m_step(u, u))
    squared_distance = _over_queries(
        (u * (gaussian.precision[..., None] * gaussian.query_squared_norms)[..., None] - 2 * u * logits).sum(-1),
        gaussian,
    )
    equal = gaussian.class_logits(gaussian.m_step(first, first))
    gain = _evidence(gaussian, logits, share) - _evidence(gaussian, equal, 1 / n_ways_of(gaussian)[..., None])
    unit = trace.clamp(min=_TINY)
    return torch.stack(
        [
            2 * entr(share).sum(-1) / largest_entropy - 1,
            2 * _over_queries(entr(u).sum(-1), gaussian) / largest_entropy - 1,
            2 * share.amax(-1) - 1,
            2 * _over_queries((u * first).sum(-1), gaussian) - 1,
            (squared_distance / unit).clamp(min=1e-3).log(),
            (5 * gain / unit).clamp(-_LIMIT, _LIMIT),
        ],
        -1,
    )


def n_ways_of(gaussian: GaussianDirect | GaussianGram) -> Tensor:
    """Return the number of real ways, shape (...), in the dtype of the features."""
    counts = gaussian.counts
    if gaussian.way_mask is None:
        return counts.new_full(counts.shape[:-1], counts.shape[-1])
    return gaussian.way_mask.sum(-1).to(counts.dtype)


def n_queries_of(gaussian: GaussianDirect | GaussianGram) -> Tensor:
    """Return the number of real queries, shape (...), in the dtype of the features."""
    norms = gaussian.query_squared_norms
    if gaussian.query_mask is None:
        return norms.new_full(norms.shape[:-1], norms.shape[-1])
    return gaussian.query_mask.sum(-1).to(norms.dtype)


def _prototype_distances(gaussian: GaussianDirect | GaussianGram, n_way: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squared distance of two prototypes, and the mean one to the nearest, in units; 0 for one way."""
    gram = gaussian.precision[..., None, None] * gaussian.prototype_gram()
    squared_norms = gram.diagonal(dim1=-2, dim2=-1)
    distances = squared_norms[..., None] + squared_norms[..., None, :] - 2 * gram
    is_other = ~torch.eye(gram.shape[-1], dtype=torch.bool, device=gram.device)
    if gaussian.way_mask is not None:
        is_other = is_other & gaussian.way_mask[..., None] & gaussian.way_mask[..., None, :]
    mean = (distances * is_other).sum((-2, -1)) / (n_way * (n_way - 1)).clamp(min=1)
    nearest = distances.masked_fill(~is_other, torch.inf).amin(-1)
    return mean, _over_ways(nearest.where(nearest.isfinite(), 0.0), gaussian.way_mask) / n_way


def _evidence(gaussian: GaussianDirect | GaussianGram, class_logits: Tensor, share: Tensor) -> Tensor:
    """Return the mean over queries of ln Σ_k π_k p(z_n|θ_k), up to a constant of the queries."""
    joint = _PRECISION * class_logits + (share + _TINY).log()[..., None, :]
    if gaussian.way_mask is not None:
        joint = joint.masked_fill(~gaussian.way_mask[..., None, :], -torch.inf)
    return _over_queries(joint.logsumexp(-1), gaussian)


def _over_ways(values: Tensor, way_mask: Tensor | None) -> Tensor:
    return (values if way_mask is None else values * way_mask).sum(-1)


def _over_queries(values: Tensor, gaussian: GaussianDirect | GaussianGram) -> Tensor:
    """Average over the real queries."""
    values = values if gaussian.query_mask is None else values * gaussian.query_mask
    return values.sum(-1) / n_queries_of(gaussian).clamp(min=1)
