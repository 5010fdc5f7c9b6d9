r"""Semi-supervised EM for a mixture of Gaussians: labelled rows belong to the component of their class.

Component k below the number of labelled classes is bound to labelled class k; x_i of class y_i, or unlabelled::

    E-step   r_ik ∝ π_k N(x_i | μ_k, Σ_k) of an unlabelled row, r_ik = 1[k = y_i] of a labelled one;
             hard: one-hot at the largest
    M-step   the joint mode under the prior (`fewshot.discovery.mixture.updates`), π_k = (N_k + a - 1)/(N + K(a - 1))
    J        Σ_labelled log π_y N(x|θ_y) + Σ_unlabelled log Σ_k π_k N(x|θ_k) + Σ_k log NIW(θ_k) + log Dir(π);
             hard: max_k in place of Σ_k

J never falls. Rows are read a chunk at a time; no matrix of the size rows × components is ever held.

Source: [GPC] for the labelled rows, from its abstract and released code (k-means there); Dempster, Laird and Rubin,
"Maximum likelihood from incomplete data via the EM algorithm", 1977.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.checks import check_choice, check_non_negative
from fewshot.discovery.mixture.chunked_sums import Pool, data_standardization, total_scatter
from fewshot.discovery.mixture.em_steps import Pass, Penalty, full_pass, m_step
from fewshot.discovery.mixture.forms import FORMS
from fewshot.discovery.mixture.state import MixtureState, assign
from fewshot.discovery.niw import NIWPrior
from fewshot.distributed import all_sum

__all__ = ["MixtureResult", "fit_mixture"]

# A component with this share of all rows or less is empty.
_EMPTY = 1e-9


class MixtureResult(NamedTuple):
    """The outcome of semi-supervised EM.

    Attributes
    ----------
    state : MixtureState
    labels : Tensor (n,), int64
        The most probable component of each row under ``state``; a labelled row has its own.
    objective : Tensor (n_steps + 1,), float64
        J of the start and after each step, in nats; the last is that of ``state``. Without a prior, the log-likelihood.
    n_components : Tensor (n_steps + 1,), int64
        Of the start and after each step. J of different numbers of components is not comparable where there is a prior.
    is_converged : bool
        The last step gained less than the tolerance.
    """

    state: MixtureState
    labels: Tensor
    objective: Tensor
    n_components: Tensor
    is_converged: bool


@torch.no_grad()
def fit_mixture(
    features: Tensor,
    labels: Tensor,
    start: MixtureState,
    *,
    form: str = "tied",
    prior: NIWPrior | None = None,
    weight_concentration: float = 1.0,
    covariance_floor: float = 1e-6,
    is_hard: bool = False,
    drop_empty: bool = True,
    sample_weight: Tensor | None = None,
    n_steps: int = 100,
    tolerance: float = 1e-3,
    chunk_size: int | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> MixtureResult:
    """Fit a mixture to labelled and unlabelled rows by EM, to the maximum of the likelihood or of the posterior.

    Parameters
    ----------
    features : Tensor (n, d)
        float32, float64, or halves, which are widened a chunk at a time. May be memory-mapped. With several processes
        of ``torch.distributed``, this process's share of the rows; all get the answer for the whole.
    labels : Tensor (n,), int64
        The component of a labelled row; -1 for an unlabelled one.
    start : MixtureState
        The state of the first E-step, see `fewshot.discovery.mixture.start`. Its size is the number of components.
    form : {"spherical", "diagonal", "tied", "full", "low-rank"}
        Form of the covariances.
    prior : NIWPrior, optional
        Of means and covariances; none is maximum likelihood.
    weight_concentration : float
        a of the Dirichlet prior of the weights, at least 1. Default 1: none.
    covariance_floor : float
        Added to every variance where there is no prior, in squared units of the features. Default 1e-6, scikit-learn's
        ``reg_covar``.
    is_hard : bool
        Give each row to one component whole.
    drop_empty : bool
        Drop components without rows (less than 1e-9 of all) that no label names. One that stays keeps its mean and
        covariance.
    sample_weight : Tensor (n,), optional
        How often each row counts, not negative.
    n_steps : int
        M-steps at most. Default 100, as in scikit-learn.
    tolerance : float
        Stop when a step changes J by less than this per row, in nats. Default 1e-3, scikit-learn's; 0 runs all steps.
    chunk_size : int, optional
        Rows at a time; by default as many as make about a million numbers.
    progress : callable, optional
        Called with the number of steps done and J.

    Returns
    -------
    MixtureResult

    Raises
    ------
    ValueError
        If the form is unknown, shapes do not match, a label names no component, a < 1, or J is not finite.

    Notes
    -----
    J never falls between steps that drop no component, up to rounding: with a prior whatever the form, without one
    where ``covariance_floor`` is 0 (a floor is no prior). Weighting a row by 2 is having it twice.

    Where the authors' released code says "GMM" it runs k-means: its posterior means, covariances and weights are never
    used to assign. Here they are.

    Examples
    --------
    >>> features = torch.tensor([[0.0], [0.5], [5.0], [5.5]])
    >>> start = MixtureState(torch.zeros(2), torch.tensor([[0.0], [4.0]]), torch.ones(2))
    >>> found = fit_mixture(features, torch.tensor([0, -1, -1, -1]), start, form="spherical")
    >>> found.labels.tolist(), found.state.means[:, 0].round(decimals=4).tolist(), found.is_converged
    ([0, 0, 1, 1], [0.25, 5.25], True)
    """
    penalty = Penalty(prior, weight_concentration, covariance_floor)
    pool = Pool(features, labels, sample_weight, chunk_size)
    _check(pool, start, form, penalty)
    scaling = data_standardization(features, sample_weight, chunk_size=chunk_size)
    scatter = total_scatter(features, scaling, sample_weight, chunk_size=chunk_size) if FORMS[form].is_shared else None
    n_bound = _n_bound(labels, len(start.means))
    state, trace, is_converged = _double(start), _Trace([], []), False
    for step in range(n_steps + 1):
        found = full_pass(pool, state, form, scaling, penalty, is_hard=is_hard)
        trace.add(found, progress)
        is_converged = trace.is_still(tolerance * float(found.moments.counts.sum()))
        if is_converged or step == n_steps:
            break
        keep = _kept(found.moments.counts, n_bound) if drop_empty else None
        if keep is not None and len(keep) < len(state.means):
            state = state.at(form, keep)
        else:
            moments = found.moments if scatter is None else found.moments._replace(second=scatter)
            state = m_step(form, moments, state, scaling, penalty, found.ready)
    components = assign(features, state, form=form, chunk_size=chunk_size).components
    return MixtureResult(state, torch.where(labels >= 0, labels, components), *trace.tensors(state), is_converged)


class _Trace(NamedTuple):
    objective: list[float]
    n_components: list[int]

    def add(self, found: Pass, progress: Callable[[int, float], None] | None) -> None:
        value = float(found.objective)
        if not math.isfinite(value):
            raise ValueError(f"the objective of the mixture is {value}: features and start must be finite")
        self.objective.append(value)
        self.n_components.append(len(found.moments.counts))
        if progress is not None:
            progress(len(self.objective) - 1, value)

    def is_still(self, tolerance: float) -> bool:
        """Return whether the last step kept the components and moved J by less than the tolerance."""
        return (
            len(self.objective) > 1
            and self.n_components[-1] == self.n_components[-2]
            and abs(self.objective[-1] - self.objective[-2]) < tolerance
        )

    def tensors(self, state: MixtureState) -> tuple[Tensor, Tensor]:
        return state.means.new_tensor(self.objective), torch.tensor(self.n_components, device=state.means.device)


def _double(state: MixtureState) -> MixtureState:
    return MixtureState(state.log_weights.double().log_softmax(-1), state.means.double(), state.covariances.double())


def _n_bound(labels: Tensor, n_components: int) -> int:
    """Return one more than the last component that a label of any process names."""
    counts = torch.bincount(labels[labels >= 0], minlength=n_components).double()
    named = all_sum(counts)[0].nonzero()
    return int(named[-1]) + 1 if len(named) else 0


def _kept(counts: Tensor, n_bound: int) -> Tensor:
    """Return the components that have rows or labels."""
    is_bound = torch.arange(len(counts), device=counts.device) < n_bound
    return ((counts > _EMPTY * counts.sum()) | is_bound).nonzero()[:, 0]


def _check(pool: Pool, start: MixtureState, form: str, penalty: Penalty) -> None:
    check_choice("form of covariance", form, FORMS)
    n, k = len(pool.features), len(start.means)
    if pool.features.dim() != 2 or pool.features.shape[1:] != start.means.shape[1:]:
        raise ValueError(
            f"features must be (n, {start.means.shape[-1]}), as the means of start; got {tuple(pool.features.shape)}"
        )
    if pool.labels.shape != (n,) or (pool.weights is not None and pool.weights.shape != (n,)):
        weights = "no weights" if pool.weights is None else f"sample_weight {tuple(pool.weights.shape)}"
        raise ValueError(f"labels and sample_weight must be ({n},), got labels {tuple(pool.labels.shape)}, {weights}")
    if n and int(pool.labels.max()) >= k:
        raise ValueError(
            f"labels must lie below the {k} components of start, got {int(pool.labels.max())}: number classes from 0"
        )
    if not penalty.concentration >= 1:
        raise ValueError(f"weight_concentration must be at least 1, got {penalty.concentration}")
    check_non_negative("covariance_floor", penalty.covariance_floor)
