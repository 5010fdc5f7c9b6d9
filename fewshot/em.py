r"""Generalized EM: block minimisation of likelihood, class-proportion entropy and assignment entropy.

For one episode, with soft assignments u_n of the queries Q, class parameters θ_k and class proportions π_k = mean_n
u_nk,

    J(u, θ) = - Σ_{n in Q} Σ_k u_nk ln p(z_n|θ_k) - Σ_{n in S} ln p(z_n|θ_{y_n})
              + λ · ( - Σ_k π_k ln π_k ) + T · Σ_{n in Q} Σ_k u_nk ln u_nk.

The support set S enters θ but not π. λ is written ``class_balance · |Q|``: ``class_balance`` = 1 and
``temperature`` = 1 is ordinary EM for a mixture with free proportions; a larger ``class_balance`` leaves fewer,
larger classes; a temperature above 1 softens, below 1 hardens. Any leading batch dimensions; one solution per
episode, independent of its companions.

Source: [UNEM] objective and updates, as restated in the authors' released code.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fewshot.prototypes import log_softmax_over_ways, way_logits

__all__ = ["EMResult", "EMState", "Likelihood", "e_step", "hard_assignments", "objective", "proportions", "run_em"]

_NEARLY_ALL = 0.999


class EMState(NamedTuple):
    """The state that one layer passes to the next.

    Attributes
    ----------
    parameters : Tensor
        Class parameters, in the form of the likelihood that made them.
    log_proportions : Tensor (..., n_way)
        Log class proportions, the constant 0 where there is no prior yet.
    """

    parameters: Tensor
    log_proportions: Tensor


class EMResult(NamedTuple):
    """The outcome of generalized EM.

    Attributes
    ----------
    log_responsibilities : Tensor (..., n_queries, n_way)
        Of the last E-step; each row is a log-probability.
    state : EMState
        The input of the last E-step.
    objective : Tensor (n_layers, ...) or None
        J after the E-step of each layer, with that layer's λ and T; None unless asked for.
    is_collapsed : Tensor (...), bool
        One class took more than 99.9 % of the responsibility of two queries or more.
    is_one_hot : Tensor (...), bool
        The assignments of the first layer are all harder than 0.999: no later layer can change them much.
    """

    log_responsibilities: Tensor
    state: EMState
    objective: Tensor | None
    is_collapsed: Tensor
    is_one_hot: Tensor


class Likelihood(Protocol):
    """Likelihood p(z|θ) of a class, as generalized EM uses it."""

    @property
    def query_mask(self) -> Tensor | None:
        """Tensor (..., n_queries), bool, or None: which queries are real."""

    @property
    def way_mask(self) -> Tensor | None:
        """Tensor (..., n_way), bool, or None: which ways are real."""

    def initial_state(self) -> EMState:
        """Return the input of the first E-step."""

    def m_step(self, responsibilities: Tensor, parameters: Tensor) -> Tensor:
        """Return the class parameters that maximise the likelihood of support and weighted queries.

        ``parameters`` are the last ones, where an iterative solver may start.
        """

    def class_logits(self, parameters: Tensor) -> Tensor:
        """Return ln p(z_n|θ_k), shape (..., n_queries, n_way), up to a constant per query."""

    def fixed_log_likelihood(self, parameters: Tensor) -> Tensor:
        """Return, shape (...), the support's log-likelihood plus the constants that ``class_logits`` leaves out."""


def e_step(
    class_logits: Tensor,
    log_proportions: Tensor,
    class_balance: Tensor | float,
    temperature: Tensor | float,
    way_mask: Tensor | None = None,
) -> Tensor:
    """Assign queries: ``ln u_n = log softmax_k( ( ln p(z_n|θ_k) + (λ/|Q|) ln π_k ) / T )``.

    The exact minimiser over u of J with its concave entropy of proportions replaced by the tangent at π.

    Parameters
    ----------
    class_logits : Tensor (..., n_queries, n_way)
        ln p(z_n|θ_k) up to a constant per query.
    log_proportions : Tensor (..., n_way)
    class_balance : Tensor (...) or float
        ``λ/|Q|``, not negative.
    temperature : Tensor (...) or float
        T, positive; it divides the likelihood and the prior.
    way_mask : Tensor (..., n_way), bool, optional
        Which ways are real; an absent way is assigned nothing.

    Returns
    -------
    Tensor (..., n_queries, n_way)
        Log responsibilities; each row is a log-probability.

    Source
    ------
    [UNEM] E-step of the generalized EM algorithm.
    """
    tempered_logits = _tempered_logits(class_logits, log_proportions, class_balance, temperature)
    # Masked last: minus infinity divided by T would give T the gradient NaN.
    return log_softmax_over_ways(way_logits(tempered_logits, way_mask))


def proportions(responsibilities: Tensor, query_mask: Tensor | None = None) -> Tensor:
    """Average the responsibilities of the real queries: π_k, shape (..., n_way), sums to 1."""
    if query_mask is None:
        return responsibilities.mean(-2)
    weights = query_mask[..., None].to(responsibilities.dtype)
    return (responsibilities * weights).sum(-2) / weights.sum(-2).clamp(min=1)


def objective(
    likelihood: Likelihood,
    parameters: Tensor,
    log_responsibilities: Tensor,
    class_balance: Tensor | float,
    temperature: Tensor | float,
) -> Tensor:
    """Return J(u, θ), shape (...), up to a constant of the data.

    For fixed λ >= 0 and T > 0 it never rises, after any block update. Between layers with different λ or T it may.
    """
    u = log_responsibilities.exp()
    if likelihood.query_mask is not None:
        u = u * likelihood.query_mask[..., None]
    n_queries = u.sum((-2, -1))
    fit = (u * likelihood.class_logits(parameters)).sum((-2, -1)) + likelihood.fixed_log_likelihood(parameters)
    proportion_entropy = torch.special.entr(u.sum(-2) / n_queries[..., None]).sum(-1)
    assignment_entropy = torch.special.entr(u).sum((-2, -1))
    value: Tensor = -fit + class_balance * n_queries * proportion_entropy - temperature * assignment_entropy
    return value


def hard_assignments(responsibilities: Tensor) -> Tensor:
    """Return the one-hot row of each row's largest entry, of responsibilities or their logs (not differentiable)."""
    by_way = responsibilities.mT
    return torch.zeros_like(by_way).scatter(-2, by_way.max(-2, keepdim=True).indices, 1.0).mT


def run_em(
    likelihood: Likelihood,
    class_balance: Tensor,
    temperature: Tensor,
    *,
    proportion_floor: float = 1e-6,
    is_hard: bool = False,
    with_objective: bool = False,
) -> EMResult:
    """Run one layer of generalized EM per entry of ``class_balance``.

    A layer is an E-step from (θ, π), then π and θ from its assignments; the last layer is its E-step alone.

    Parameters
    ----------
    likelihood : Likelihood
        Gaussian or Dirichlet classes of an episode; decides the initial state.
    class_balance : Tensor (n_layers,)
        ``λ/|Q|`` of each layer, not negative. With Gaussian classes the first has no effect: there is no prior yet.
    temperature : Tensor (n_layers,)
        T of each layer, positive.
    proportion_floor : float
        Added to π before its logarithm; caps the penalty of an empty class. Default 1e-6, as in the authors' Gaussian
        code (1e-15 in their Dirichlet code).
    is_hard : bool
        Replace the assignments by their one-hot arg max before each M-step.
    with_objective : bool
        Also return J of each layer.

    Returns
    -------
    EMResult

    Raises
    ------
    ValueError
        If there is no layer.

    Notes
    -----
    Differentiable in the likelihood's tensors, ``class_balance`` and ``temperature``, unless ``is_hard``.

    Source
    ------
    [UNEM] generalized EM; order and initial states as in the released code.
    """
    if class_balance.shape[-1] == 0:
        raise ValueError("EM needs at least one layer, got class_balance and temperature of none")
    layers = list(zip(class_balance.unbind(-1), temperature.unbind(-1), strict=True))
    state = likelihood.initial_state()
    log_u = _assign(likelihood, state, *layers[0])
    is_one_hot = _are_one_hot(log_u, likelihood.query_mask)
    trace = [objective(likelihood, state.parameters, log_u, *layers[0])] if with_objective else []
    for balance, t in layers[1:]:
        u = hard_assignments(log_u) if is_hard else log_u.exp()
        log_proportions = (proportions(u, likelihood.query_mask) + proportion_floor).log()
        state = EMState(likelihood.m_step(u, state.parameters), log_proportions)
        log_u = _assign(likelihood, state, balance, t)
        if with_objective:
            trace.append(objective(likelihood, state.parameters, log_u, balance, t))
    objectives = torch.stack(trace) if with_objective else None
    return EMResult(log_u, state, objectives, _are_collapsed(log_u, likelihood.query_mask), is_one_hot)


def _assign(likelihood: Likelihood, state: EMState, class_balance: Tensor, temperature: Tensor) -> Tensor:
    """Run the E-step of one layer from the last state."""
    class_logits = likelihood.class_logits(state.parameters)
    return e_step(class_logits, state.log_proportions, class_balance, temperature, likelihood.way_mask)


def _tempered_logits(
    class_logits: Tensor, log_proportions: Tensor, class_balance: Tensor | float, temperature: Tensor | float
) -> Tensor:
    """Return the likelihood and the weighted prior over the temperature: ``( ln p(z_n|θ_k) + (λ/|Q|) ln π_k ) / T``."""
    balance = class_balance[..., None] if isinstance(class_balance, Tensor) else class_balance
    t = temperature[..., None, None] if isinstance(temperature, Tensor) else temperature
    return (class_logits + (balance * log_proportions)[..., None, :]) / t


def _are_collapsed(log_u: Tensor, query_mask: Tensor | None) -> Tensor:
    """Return where one class takes nearly all responsibility of two queries or more, shape (...)."""
    share = proportions(log_u.detach().exp(), query_mask)
    n_queries = log_u.shape[-2] if query_mask is None else query_mask.sum(-1)
    return (share.amax(-1) > _NEARLY_ALL) & (n_queries > 1)


def _are_one_hot(log_u: Tensor, query_mask: Tensor | None) -> Tensor:
    """Return where every real query is assigned to one class nearly alone, shape (...)."""
    hardest = log_u.detach().amax(-1)
    hardest = hardest if query_mask is None else hardest.masked_fill(~query_mask, 0.0)
    return hardest.amin(-1) > math.log(_NEARLY_ALL)
