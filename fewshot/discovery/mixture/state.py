"""A mixture of Gaussians: densities, responsibilities and the most probable component of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.checks import check_choice
from fewshot.discovery.mixture.chunked_sums import chunks, exp_and_log_sum
from fewshot.discovery.mixture.densities import densities
from fewshot.discovery.mixture.forms import FORMS
from fewshot.discovery.mixture.scaling import working_dtype

__all__ = ["Assignment", "MixtureState", "assign", "log_densities", "log_responsibilities"]


class MixtureState(NamedTuple):
    """The parameters of a mixture, in float64.

    Attributes
    ----------
    log_weights : Tensor (k,)
        log π; π sums to 1.
    means : Tensor (k, d)
    covariances : Tensor
        (k,) spherical, (k, d) diagonal, (d, d) tied, (k, d, d) full, (k, d, r + 1) low-rank: W_k, and ψ_k last.
    """

    log_weights: Tensor
    means: Tensor
    covariances: Tensor

    def at(self, form: str, index: Tensor) -> MixtureState:
        """Return some components, their weights made to sum to 1."""
        log_weights = self.log_weights[index].log_softmax(-1)
        covariances = self.covariances if FORMS[form].is_shared else self.covariances[index]
        return MixtureState(log_weights, self.means[index], covariances)


class Assignment(NamedTuple):
    """The most probable component of each row.

    Attributes
    ----------
    components : Tensor (n,), int64
    log_responsibilities : Tensor (n,)
        The log-probability of that component given the row.
    log_densities : Tensor (n,)
        log p(x) under the whole mixture: low for outliers.
    """

    components: Tensor
    log_responsibilities: Tensor
    log_densities: Tensor


@torch.no_grad()
def assign(features: Tensor, state: MixtureState, *, form: str, chunk_size: int | None = None) -> Assignment:
    """Find the most probable component of each row.

    Parameters
    ----------
    features : Tensor (n, d)
        Any floating dtype; halves are widened to float32.
    state : MixtureState
    form : {"spherical", "diagonal", "tied", "full", "low-rank"}
        That of ``state.covariances``.
    chunk_size : int, optional
        Rows at a time; by default as many as make about a million numbers. It does not change the answer.

    Returns
    -------
    Assignment
        Of the features' dtype, or float32 for halves.

    Examples
    --------
    >>> state = MixtureState(torch.tensor([0.5, 0.5]).log(), torch.tensor([[0.0], [4.0]]), torch.ones(2))
    >>> assign(torch.tensor([[1.0], [5.0]]), state, form="spherical").components.tolist()
    [0, 1]
    """
    n = len(features)
    found = torch.empty((2, n), dtype=working_dtype(features), device=features.device)
    result = Assignment(torch.empty(n, dtype=torch.int64, device=features.device), *found)
    for part, logits, constant in _logits(features, state, form, chunk_size):
        best = logits.max(-1)
        _, log_sums = exp_and_log_sum(logits)
        for whole, values in zip(result, (best.indices, best.values - log_sums, log_sums + constant), strict=True):
            whole[part] = values
    return result


@torch.no_grad()
def log_responsibilities(features: Tensor, state: MixtureState, *, form: str, chunk_size: int | None = None) -> Tensor:
    """Return log r_ik of all rows and components, shape (n, k); each row is a log-probability.

    See `assign` for the parameters; the whole matrix is returned, so give the rows in parts where it does not fit.
    """
    return torch.cat([logits.log_softmax(-1) for _, logits, _ in _logits(features, state, form, chunk_size)])


@torch.no_grad()
def log_densities(features: Tensor, state: MixtureState, *, form: str, chunk_size: int | None = None) -> Tensor:
    """Return log N(x_i | μ_k, Σ_k) in nats, shape (n, k); see `assign` for the parameters.

    Examples
    --------
    >>> state = MixtureState(torch.zeros(1), torch.zeros(1, 2), torch.ones(1))
    >>> log_densities(torch.zeros(1, 2), state, form="spherical")
    tensor([[-1.8379]])
    """
    flat = state._replace(log_weights=torch.zeros_like(state.log_weights))
    return torch.cat([logits + constant for _, logits, constant in _logits(features, flat, form, chunk_size)])


def _logits(
    features: Tensor, state: MixtureState, form: str, chunk_size: int | None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield a chunk's place, its log π_k + log N less a constant, and the constant."""
    check_choice("form of covariance", form, FORMS)
    if features.dim() != 2 or features.shape[1] != state.means.shape[1]:
        raise ValueError(
            f"features must be (n, {state.means.shape[1]}), as the mixture's means; got {tuple(features.shape)}"
        )
    ready = densities(form, *state, dtype=working_dtype(features))
    for part in chunks(len(features), FORMS[form].numbers_per_row(state.means, state.covariances), chunk_size):
        rows = ready.scaling.rows(features[part])
        yield part, ready.relative(rows), ready.constant.to(rows)
