r"""One E-step and one M-step of a mixture of Gaussians over all rows, in chunks and over processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.mixture.chunked_sums import (
    HardResponsibilities,
    Pool,
    Responsibilities,
    SoftResponsibilities,
    exp_and_log_sum,
    scaled_chunks,
)
from fewshot.discovery.mixture.densities import densities
from fewshot.discovery.mixture.forms import FORMS, Densities, Moments
from fewshot.discovery.mixture.log_prior import log_dirichlet, log_niw
from fewshot.discovery.mixture.scaling import Standardization, working_dtype
from fewshot.discovery.mixture.state import MixtureState
from fewshot.discovery.mixture.updates import flat_prior, standardized_prior, updated_components
from fewshot.discovery.niw import NIWPrior
from fewshot.distributed import all_sum

__all__ = ["Pass", "Penalty", "chunk_moments", "e_step", "full_pass", "log_penalty", "m_step", "no_moments"]


class Penalty(NamedTuple):
    """The prior of the parameters, or the floor in its place: keeps an M-step from degenerate components.

    Attributes
    ----------
    prior : NIWPrior or None
    concentration : float
        a of the Dirichlet prior of the weights, at least 1.
    covariance_floor : float
        Added to every variance where there is no prior, in squared units of the features.
    """

    prior: NIWPrior | None = None
    concentration: float = 1.0
    covariance_floor: float = 1e-6


def e_step(
    ready: Densities, rows: Tensor, labels: Tensor, weights: Tensor | None, *, is_hard: bool
) -> tuple[Responsibilities, Tensor]:
    """Compute the responsibilities of the components for the rows of a chunk.

    Parameters
    ----------
    ready : Densities
    rows : Tensor (b, d)
        Standardized by ``ready.scaling``.
    labels : Tensor (b,), int64
    weights : Tensor (b,) or None
    is_hard : bool

    Returns
    -------
    responsibilities : Responsibilities
        Times the weights of the rows.
    scores : Tensor (b,)
        log Σ_k π_k N(x|θ_k), or max_k, or for a labelled row its own term, less ``ready.constant``.
    """
    logits = ready.relative(rows)
    weights = None if weights is None else weights.to(rows)
    bound = (labels >= 0).nonzero()[:, 0]
    own = logits[bound, labels[bound]]
    responsibilities: Responsibilities
    if is_hard:
        scores, components = logits.max(-1)
        components[bound] = labels[bound]
        ones = rows.new_ones(len(rows)) if weights is None else weights
        responsibilities = HardResponsibilities(components, ones, len(ready.peaks))
    else:
        r, scores = exp_and_log_sum(logits)
        r[bound] = 0
        r[bound, labels[bound]] = 1
        responsibilities = SoftResponsibilities(r if weights is None else r.mul_(weights[:, None]))
    scores[bound] = own
    return responsibilities, scores


def chunk_moments(
    form: str, responsibilities: Responsibilities, rows: Tensor, points: Tensor, ready: Densities | None = None
) -> Moments:
    """Return the moments of a chunk of standardized rows (b, d), about the last means ``points`` (k, d)."""
    second = FORMS[form].second_moment(responsibilities, rows, points, ready)
    return Moments(responsibilities.counts(), responsibilities.sum(rows), second)


def no_moments(points: Tensor) -> Moments:
    """Return the moments of no rows."""
    return Moments(points.new_zeros(len(points)), torch.zeros_like(points), points.new_zeros(()))


class Pass(NamedTuple):
    """The densities of a state, the moments of its responsibilities, and J."""

    ready: Densities
    moments: Moments
    objective: Tensor


def full_pass(
    pool: Pool, state: MixtureState, form: str, scaling: Standardization, penalty: Penalty, *, is_hard: bool
) -> Pass:
    """Make the E-step of all rows; return the moments for the M-step, and J."""
    ready = densities(form, *state, dtype=working_dtype(pool.features), scaling=scaling)
    points = scaling.points(state.means)
    moments, score = no_moments(points), points.new_zeros(())
    for rows, part in scaled_chunks(pool, scaling, FORMS[form].numbers_per_row(state.means, state.covariances)):
        weights = None if pool.weights is None else pool.weights[part]
        responsibilities, scores = e_step(ready, rows, pool.labels[part], weights, is_hard=is_hard)
        moments = moments.plus(chunk_moments(form, responsibilities, rows, points, ready))
        score = score + (scores.double() if weights is None else scores.double() * weights).sum()
    *sums, score = all_sum(*moments, score)
    value = score + sums[0].sum() * ready.constant + log_penalty(form, state, penalty)
    return Pass(ready, Moments(*sums), value)


def log_penalty(form: str, state: MixtureState, penalty: Penalty) -> Tensor:
    """Return log NIW(θ) + log Dir(π), the part of J without rows; 0 without a prior and at a = 1."""
    value = state.log_weights.new_zeros(())
    if penalty.prior is not None:
        value = value + log_niw(form, state.means, state.covariances, penalty.prior)
    return value if penalty.concentration == 1 else value + log_dirichlet(state.log_weights, penalty.concentration)


def m_step(
    form: str,
    moments: Moments,
    state: MixtureState,
    scaling: Standardization,
    penalty: Penalty,
    ready: Densities | None = None,
) -> MixtureState:
    """Return the state that maximises J for the responsibilities that gave the moments.

    Parameters
    ----------
    form : str
    moments : Moments
        Standardized by ``scaling``.
    state : MixtureState
        The last one: a component without rows or prior keeps its mean and covariance.
    scaling : Standardization
    penalty : Penalty
    ready : Densities, optional
        Those of the E-step, for the low-rank form.
    """
    points, spread = scaling.points(state.means), FORMS[form].scaled(state.covariances, scaling.unit)
    has_prior = penalty.prior is not None
    prior = flat_prior(points) if penalty.prior is None else standardized_prior(penalty.prior, scaling)
    floor = 0.0 if has_prior else penalty.covariance_floor / scaling.unit.square()
    points, spread = updated_components(form, moments, points, spread, prior, covariance_floor=floor, ready=ready)
    return MixtureState(
        _log_weights(moments.counts, penalty.concentration),
        scaling.shift + scaling.unit * points,
        FORMS[form].scaled(spread, scaling.unit.reciprocal()),
    )


def _log_weights(counts: Tensor, concentration: float) -> Tensor:
    """Return log π_k = log (N_k + a - 1) / (N + K(a - 1)); a component without rows keeps a trace of a weight."""
    least = 10 * torch.finfo(torch.float64).eps * counts.sum()
    return (counts + (concentration - 1)).clamp(min=least).log().log_softmax(-1)
