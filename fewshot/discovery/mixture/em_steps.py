r"""One E-step and one M-step of a mixture of Gaussians over all rows, in chunks and over processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.discovery.mixture.chunked_sums import HardShares, Shares, SoftShares, chunks, exp_and_log_sum
from fewshot.discovery.mixture.densities import Densities, densities
from fewshot.discovery.mixture.log_prior import log_dirichlet, log_niw
from fewshot.discovery.mixture.scaling import Frame, framed_covariances, working_dtype
from fewshot.discovery.mixture.state import MixtureState, numbers_per_row
from fewshot.discovery.mixture.updates import Moments, flat_prior, framed_prior, second_moments, updated_components
from fewshot.discovery.niw import NIWPrior
from fewshot.distributed import all_sum

__all__ = ["Pass", "Penalty", "Pool", "e_step", "full_pass", "gather", "log_penalty", "m_step"]

Respond = Callable[[Tensor, slice], tuple[Shares, Tensor]]


class Pool(NamedTuple):
    """The rows that a mixture is fitted to.

    Attributes
    ----------
    features : Tensor (n, d)
        Any floating dtype; may be memory-mapped.
    labels : Tensor (n,), int64
        The component of a labelled row, -1 of an unlabelled one.
    weights : Tensor (n,) or None
        How often each row counts, not negative.
    chunk_size : int or None
        Rows at a time.
    """

    features: Tensor
    labels: Tensor
    weights: Tensor | None = None
    chunk_size: int | None = None


class Penalty(NamedTuple):
    """What keeps an M-step from degenerate components.

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
) -> tuple[Shares, Tensor]:
    """Share the rows of a chunk out among components.

    Parameters
    ----------
    ready : Densities
    rows : Tensor (b, d)
        In its frame.
    labels : Tensor (b,), int64
    weights : Tensor (b,) or None
    is_hard : bool

    Returns
    -------
    shares : Shares
        The responsibilities times the weights of the rows.
    scores : Tensor (b,)
        log Σ_k π_k N(x|θ_k), or max_k, or for a labelled row its own term, less ``ready.constant``.
    """
    logits = ready.relative(rows)
    bound = (labels >= 0).nonzero()[:, 0]
    own = logits[bound, labels[bound]]
    if is_hard:
        scores, components = logits.max(-1)
        components[bound] = labels[bound]
        ones = rows.new_ones(len(rows)) if weights is None else weights
        shares: Shares = HardShares(components, ones, len(ready.peaks))
    else:
        responsibilities, scores = exp_and_log_sum(logits)
        responsibilities[bound] = 0
        responsibilities[bound, labels[bound]] = 1
        shares = SoftShares(responsibilities if weights is None else responsibilities.mul_(weights[:, None]))
    scores[bound] = own
    return shares, scores


def gather(
    pool: Pool, form: str, points: Tensor, frame: Frame, respond: Respond, width: int, ready: Densities | None = None
) -> tuple[Moments, Tensor]:
    """Add up what the M-step needs, over all chunks and processes.

    Parameters
    ----------
    pool : Pool
    form : str
    points : Tensor (k, d)
        The last means, in the frame.
    frame : Frame
    respond : callable
        From a chunk's rows in the frame, and its slice, to their `Shares` and scores (b,).
    width : int
        Numbers held per row.
    ready : Densities, optional
        For the low-rank form.

    Returns
    -------
    moments : Moments
    score : Tensor (), float64
        Σ_i w_i score_i.
    """
    k, n_features = points.shape
    counts, sums, score = points.new_zeros(k), points.new_zeros((k, n_features)), points.new_zeros(())
    second = points.new_zeros(())
    for part in chunks(len(pool.features), width, pool.chunk_size):
        rows = frame.rows(pool.features[part])
        shares, scores = respond(rows, part)
        counts += shares.counts()
        sums += shares.sum(rows)
        second = second + second_moments(form, shares, rows, points, ready)
        score = score + (scores.double() if pool.weights is None else scores.double() * pool.weights[part]).sum()
    counts, sums, second, score = all_sum(counts, sums, second, score)
    return Moments(counts, sums, second), score


class Pass(NamedTuple):
    """What one pass over the rows found under a state."""

    ready: Densities
    moments: Moments
    objective: Tensor


def full_pass(pool: Pool, state: MixtureState, form: str, frame: Frame, penalty: Penalty, *, is_hard: bool) -> Pass:
    """Make the E-step of all rows, and keep its sums and J."""
    dtype = working_dtype(pool.features)
    ready = densities(form, *state, dtype=dtype, frame=frame)

    def respond(rows: Tensor, part: slice) -> tuple[Shares, Tensor]:
        weights = None if pool.weights is None else pool.weights[part].to(dtype)
        return e_step(ready, rows, pool.labels[part], weights, is_hard=is_hard)

    points = frame.points(state.means)
    moments, score = gather(pool, form, points, frame, respond, numbers_per_row(form, state), ready)
    value = score + moments.counts.sum() * ready.constant + log_penalty(form, state, penalty)
    return Pass(ready, moments, value)


def log_penalty(form: str, state: MixtureState, penalty: Penalty) -> Tensor:
    """Return log NIW(θ) + log Dir(π), the part of J that the rows do not decide; 0 without a prior and at a = 1."""
    found = state.log_weights.new_zeros(())
    if penalty.prior is not None:
        found = found + log_niw(form, state.means, state.covariances, penalty.prior)
    return found if penalty.concentration == 1 else found + log_dirichlet(state.log_weights, penalty.concentration)


def m_step(
    form: str,
    moments: Moments,
    state: MixtureState,
    frame: Frame,
    penalty: Penalty,
    ready: Densities | None = None,
) -> MixtureState:
    """Return the state that maximises J for the responsibilities behind the moments.

    Parameters
    ----------
    form : str
    moments : Moments
        In the frame.
    state : MixtureState
        The last one: a component without rows or prior keeps its mean and covariance.
    frame : Frame
    penalty : Penalty
    ready : Densities, optional
        Those of the E-step, for the low-rank form.
    """
    points, spread = frame.points(state.means), framed_covariances(form, state.covariances, frame.unit)
    has_prior = penalty.prior is not None
    prior = flat_prior(points) if penalty.prior is None else framed_prior(penalty.prior, frame)
    floor = 0.0 if has_prior else penalty.covariance_floor / frame.unit.square()
    points, spread = updated_components(form, moments, points, spread, prior, covariance_floor=floor, ready=ready)
    return MixtureState(
        _log_weights(moments.counts, penalty.concentration),
        frame.shift + frame.unit * points,
        framed_covariances(form, spread, frame.unit.reciprocal()),
    )


def _log_weights(counts: Tensor, concentration: float) -> Tensor:
    """Return log π_k = log (N_k + a - 1) / (N + K(a - 1)); a component without rows keeps a trace of a weight."""
    least = 10 * torch.finfo(torch.float64).eps * counts.sum()
    return (counts + (concentration - 1)).clamp(min=least).log().log_softmax(-1)
