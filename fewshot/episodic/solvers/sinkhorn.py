"""Sinkhorn's algorithm for many small transport problems at once, in the log domain.

Items n with scores s_nk are to be shared out to classes k, each item whole, class k receiving the share c_k of all
items. The plan closest to softmax_k s_nk that does so is

    P_nk = softmax_k( s_nk + v_k ),     v_k such that mean_n P_nk = c_k,

which, with s = -cost / ε, is optimal transport with an entropy term of weight ε. Sinkhorn's step for the potentials is
v_k ← v_k + ln c_k - ln mean_n P_nk. Classes that lie far apart make it creep: it takes hundreds of steps on real
features. But the potentials are also the minimum of a convex function of n_classes numbers: from the fifth step on,
Newton's step is tried first, and taken if that function falls.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.checks import check_positive
from fewshot.prototypes import log_softmax_over_ways, softmax_over_ways

__all__ = ["Transport", "estimate_shares", "item_weights", "sinkhorn"]

# Steps of Sinkhorn's own, which are cheap and do for problems that are nearly solved, before Newton's.
_N_PLAIN_STEPS = 4
# Of the Newton steps, in units of the shares; at 1 the step is about Sinkhorn's.
_FIRST_DAMPING = 0.1
_LEAST_DAMPING = 1e-7


class Transport(NamedTuple):
    """Transport plans, and how well each keeps its shares.

    Attributes
    ----------
    log_plan : Tensor (..., n_items, n_classes)
        ln P; each row is a log-probability.
    potentials : Tensor (..., n_classes)
        v; where the next problem of the same kind may start.
    error : Tensor (...)
        max_k |mean_n P_nk - c_k|, of the plan as it is returned.
    n_steps : Tensor (...), int64
        Steps that this problem took.
    is_converged : Tensor (...), bool
        Whether the error is within the tolerance.
    """

    log_plan: Tensor
    potentials: Tensor
    error: Tensor
    n_steps: Tensor
    is_converged: Tensor


def sinkhorn(
    scores: Tensor,
    shares: Tensor,
    *,
    item_mask: Tensor | None = None,
    potentials: Tensor | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 1000,
) -> Transport:
    """Entropic optimal transport: assign items to classes so that each class receives its share.

    Parameters
    ----------
    scores : Tensor (..., n_items, n_classes)
        s_nk, finite.
    shares : Tensor (..., n_classes)
        c_k, not negative, summing to 1. A class of share 0 gets nothing.
    item_mask : Tensor (..., n_items), bool, optional
        False marks padding, which has no part in the shares.
    potentials : Tensor (..., n_classes), optional
        Where to start; from ln c_k if not given.
    tolerance : float
        Largest error that counts as converged. Default 1e-6, as in the code of [PTMAP].
    max_steps : int
        Default 1000, likewise.

    Returns
    -------
    Transport

    Notes
    -----
    A problem stops at its own tolerance and is frozen there, so that its companions in the batch do not matter. Rows
    and shares have the same total by construction, so that there is a solution to converge to. Differentiable by the
    implicit function theorem: exact where it has converged, and no step is stored. A Newton step solves n_classes
    equations.

    Source
    ------
    Cuturi, "Sinkhorn distances", NeurIPS 2013, Algorithm 1, in the log domain; the
    convex function is the dual of Peyré and Cuturi, "Computational optimal transport", 2019, Section 4.4, after its
    minimum over the items' potentials.

    Examples
    --------
    >>> plan = sinkhorn(torch.tensor([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0]]), torch.tensor([0.5, 0.5]))
    >>> plan.log_plan.exp().sum(0), bool(plan.is_converged)
    (tensor([1.5000, 1.5000]), True)
    """
    check_positive("tolerance", tolerance)
    check_positive("max_steps", max_steps)
    problem = _Problem(scores, shares, item_weights(scores, item_mask))
    with torch.no_grad():
        v, n_steps = _solved(problem, shares.log() if potentials is None else potentials, tolerance, max_steps)
    if torch.is_grad_enabled() and (scores.requires_grad or shares.requires_grad):
        v = v + _implicit_gradient(problem, v)
    log_plan = log_softmax_over_ways(scores + v[..., None, :])
    error = problem.error(_received(log_plan.detach().exp(), problem.weights))
    return Transport(log_plan, v, error, n_steps, error <= tolerance)


class _Problem(NamedTuple):
    """Find v with mean_n P_nk = c_k: the minimum of the convex F(v) = mean_n ln Σ_k exp(s_nk + v_k) - Σ_k c_k v_k."""

    scores: Tensor
    shares: Tensor
    weights: Tensor

    def objective(self, v: Tensor) -> Tensor:
        """Return F(v), shape (...)."""
        of_items = (self.scores + v[..., None, :]).mT.logsumexp(-2)
        of_classes = torch.where(self.shares > 0, self.shares * v, 0.0)
        return (of_items * self.weights.squeeze(-1)).sum(-1) - of_classes.sum(-1)

    def plan(self, v: Tensor) -> Tensor:
        """Return P, shape (..., n_items, n_classes)."""
        return softmax_over_ways(self.scores + v[..., None, :])

    def error(self, received: Tensor) -> Tensor:
        """Return max_k |mean_n P_nk - c_k|, shape (...)."""
        return (received - self.shares).abs().amax(-1)

    def sinkhorn_step(self, received: Tensor) -> Tensor:
        """Return ln c - ln mean_n P_n, from masses of at least the smallest normal number."""
        return self.shares.log() - received.clamp(min=torch.finfo(received.dtype).tiny).log()

    def newton_step(self, plan: Tensor, received: Tensor, damping: Tensor) -> Tensor:
        """Return (H + μ diag c)⁻¹ (c - mean_n P_n), with the Hessian H = diag(mean_n P_n) - mean_n P_n P_nᵀ of F.

        H alone is constant.
        """
        plan = plan.detach()
        ridge = damping[..., None] * torch.where(self.shares > 0, self.shares, 1.0)
        hessian = torch.diag_embed(received + ridge).detach() - (plan * self.weights).mT @ plan
        solution: Tensor = torch.linalg.solve_ex(hessian, (self.shares - received)[..., None])[0]
        return solution.squeeze(-1)


def _solved(problem: _Problem, v: Tensor, tolerance: float, max_steps: int) -> tuple[Tensor, Tensor]:
    """Return the potentials and the number of steps of each problem."""
    is_active = torch.ones_like(v[..., 0], dtype=torch.bool)
    n_steps = torch.zeros_like(v[..., 0], dtype=torch.int64)
    damping = torch.full_like(v[..., 0], _FIRST_DAMPING)
    rounding = 16 * torch.finfo(v.dtype).eps
    for step in range(max_steps):
        plan = problem.plan(v)
        received = _received(plan, problem.weights)
        is_active = is_active & (problem.error(received) > tolerance)
        if v.is_meta or not bool(is_active.any()):
            break
        following = v + problem.sinkhorn_step(received)
        if step >= _N_PLAIN_STEPS:
            value = problem.objective(v)
            newton = v + problem.newton_step(plan, received, damping)
            is_better = problem.objective(newton) <= value + rounding * (1 + value.abs())
            following = torch.where(is_better[..., None], newton, following)
            damping = torch.where(is_better, damping / 8, damping * 8).clamp(min=_LEAST_DAMPING)
        v = torch.where(is_active[..., None], following, v)
        n_steps = n_steps + is_active
    return v, n_steps


def _implicit_gradient(problem: _Problem, v: Tensor) -> Tensor:
    """Return zeros, shape (..., n_classes), that carry the gradient of the solution v: its next Newton step."""
    plan = problem.plan(v)
    step = problem.newton_step(plan, _received(plan, problem.weights), torch.full_like(v[..., 0], _LEAST_DAMPING))
    return step - step.detach()


def estimate_shares(
    scores: Tensor, shares: Tensor, *, item_mask: Tensor | None = None, n_steps: int = 1, floor: float = 0.0
) -> Tensor:
    """Estimate the classes' shares by EM: c_k ← mean_n softmax_k( s_nk + ln c_k ).

    At its fixed point, the maximum-likelihood estimate, the plan of `sinkhorn` for these shares has the potentials
    ln c: the softmax itself gives each class its share.

    Parameters
    ----------
    scores : Tensor (..., n_items, n_classes)
        Log densities.
    shares : Tensor (..., n_classes)
        Where to start; a share of 0 remains 0.
    item_mask : Tensor (..., n_items), bool, optional
    n_steps : int
    floor : float
        Added to each share that is not 0, so that a class without items does not die out.

    Returns
    -------
    Tensor (..., n_classes)
        Sums to 1.
    """
    weights = item_weights(scores, item_mask)
    for _ in range(n_steps):
        received = _received(softmax_over_ways(scores + shares.log()[..., None, :]), weights) + floor * (shares > 0)
        shares = received / received.sum(-1, keepdim=True)
    return shares


def item_weights(scores: Tensor, item_mask: Tensor | None) -> Tensor:
    """Return the share of each item in a mean over items, shape (..., n_items, 1)."""
    if item_mask is None:
        return scores.new_full((scores.shape[-2], 1), 1 / scores.shape[-2])
    is_item = item_mask[..., None].to(scores.dtype)
    return is_item / is_item.sum(-2, keepdim=True).clamp(min=1)


def _received(plan: Tensor, weights: Tensor) -> Tensor:
    """Return the column sums mean_n P_nk, shape (..., n_classes)."""
    received: Tensor = (plan.mT @ weights).squeeze(-1)
    return received
