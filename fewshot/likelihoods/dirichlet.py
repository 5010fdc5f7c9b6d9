r"""Dirichlet classes on the simplex: log densities, the maximum-likelihood fit of α, and their generalized EM.

ln p(z|α) = lnΓ(Σ_i α_i) - Σ_i lnΓ(α_i) + Σ_i (α_i - 1) ln z_i. The fit depends on the data only through their mean
log features ȳ and solves ψ(α_i) - ψ(Σ α) = ȳ_i, here by Newton's method, whose Jacobian diag(ψ'(α)) - ψ'(Σα) 11ᵀ is
inverted in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.em import EMState, proportions
from fewshot.prototypes import class_counts, class_sums, way_logits

__all__ = [
    "DirichletLikelihood",
    "digamma_trigamma",
    "dirichlet_likelihood",
    "dirichlet_log_likelihood",
    "fit_dirichlet",
    "mm_step",
    "simplex_log_features",
]

_EULER_GAMMA = 0.5772156649015329
# The bound below which the curvature of the MM step is taken from its series: pitfall of float32 cancellation.
_SMALL_ALPHA = 1e-2
# Rows of α are solved in pieces of about this many numbers, so that the temporaries stay in cache.
_CHUNK = 1 << 16


def simplex_log_features(
    cosines: Tensor, softmax_scale: Tensor | float, *, way_mask: Tensor | None = None, simplex_floor: float = 1e-15
) -> Tensor:
    """Put cosines on the simplex: ln( softmax_k(τ cos_k) + floor ).

    Parameters
    ----------
    cosines : Tensor (..., n_items, n_classes)
    softmax_scale : Tensor () or float
        τ; it multiplies. 30 in EM-Dirichlet for CLIP.
    way_mask : Tensor (..., n_classes), bool, optional
        False marks a class that is not there.
    simplex_floor : float
        Added before the logarithm. Default 1e-15, as in the authors' code.

    Returns
    -------
    Tensor (..., n_items, n_classes)
        In [ln floor, 0], up to the floor log-probabilities.

    Source
    ------
    [EMD] probability features; [UNEM] with τ learned.
    """
    log_z = way_logits(softmax_scale * cosines, way_mask).log_softmax(-1)
    return torch.logaddexp(log_z, torch.log(torch.as_tensor(simplex_floor, dtype=log_z.dtype, device=log_z.device)))


def dirichlet_log_likelihood(log_features: Tensor, alpha: Tensor) -> Tensor:
    """Return ln p(z_n|α_k) as one matmul.

    Parameters
    ----------
    log_features : Tensor (..., n_items, n_features)
        ln z, finite.
    alpha : Tensor (..., n_way, n_features)
        Positive; exactly 0 marks a feature that is not there (its ln z must then be 0).

    Returns
    -------
    Tensor (..., n_items, n_way)

    Examples
    --------
    The uniform distribution on the simplex of three corners has density 2:

    >>> dirichlet_log_likelihood(torch.full((1, 3), 1 / 3).log(), torch.ones(1, 3)).exp().item()
    2.0
    """
    is_real = alpha > 0
    log_normaliser = torch.lgamma(alpha.sum(-1)) - torch.where(is_real, torch.lgamma(alpha), 0.0).sum(-1)
    return ((alpha - 1) @ log_features.mT + log_normaliser[..., None]).mT


def digamma_trigamma(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ψ(x) and ψ'(x) for positive x together, several times faster than one by one.

    A few steps of the recurrence, then the asymptotic series; in float64 the error is below 1e-11 of ``1 + |value|``.
    """
    n_steps = 6 if x.dtype == torch.float64 else 2
    digamma, trigamma = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(n_steps):
        reciprocal = (x + step).reciprocal_()
        digamma -= reciprocal
        trigamma.addcmul_(reciprocal, reciprocal)
    y = (x + n_steps).reciprocal_()
    y2 = y.square()
    series = y2 * (1 / 12 - y2 * (1 / 120 - y2 * (1 / 252 - y2 * (1 / 240 - y2 * (1 / 132 - y2 * (691 / 32760))))))
    digamma -= y.log() + 0.5 * y + series
    series = y * (1 / 6 - y2 * (1 / 30 - y2 * (1 / 42 - y2 * (1 / 30 - y2 * (5 / 66 - y2 * (691 / 2730))))))
    trigamma += y + y2 * (0.5 + series)
    return digamma, trigamma


def fit_dirichlet(
    mean_log_features: Tensor,
    *,
    start: Tensor | None = None,
    feature_mask: Tensor | None = None,
    n_steps: int = 40,
    tolerance: float | None = None,
    max_concentration: float = 1e4,
) -> Tensor:
    """Fit α by maximum likelihood: solve ψ(α_i) - ψ(Σ α) = ȳ_i.

    Newton's method; every row stops by itself.

    Parameters
    ----------
    mean_log_features : Tensor (..., n_features)
        ȳ = mean of ln z. A finite solution exists if Σ_i exp(ȳ_i) < 1, which holds unless all z are equal.
    start : Tensor (..., n_features), optional
        Where to start, such as the solution for nearly the same ȳ. Default: a closed form. It moves the result by no
        more than the tolerance.
    feature_mask : Tensor (..., n_features), bool, optional
        False marks a feature that is not there.
    n_steps : int
        Most Newton steps; four to eight are usual.
    tolerance : float, optional
        A row stops when its largest relative change is below. Default: the square root of the dtype's epsilon, after
        which Newton's quadratic convergence leaves an error of the order of the epsilon.
    max_concentration : float
        Upper bound of Σ α, reached only by (nearly) identical items, whose likelihood has no finite maximum.

    Returns
    -------
    Tensor (..., n_features)
        Positive; exactly 0 where the mask is False.

    Notes
    -----
    Differentiable in ``mean_log_features`` by the implicit function theorem, with one closed-form solve and no graph of
    the iterations; rows at the bound have gradient zero.
    The authors' code instead runs up to 1000 majorisation steps (see `mm_step`) with a stopping rule that is shared by
    the whole batch, so that results depend on the companions.

    Source
    ------
    Minka, "Estimating a Dirichlet distribution", 2000 (revised 2012), Section 1.

    Examples
    --------
    >>> mean_log = torch.digamma(torch.tensor([2.0, 3.0, 4.0])) - torch.digamma(torch.tensor(9.0))
    >>> [round(value, 4) for value in fit_dirichlet(mean_log).tolist()]
    [2.0, 3.0, 4.0]
    """
    mean_log = mean_log_features if feature_mask is None else mean_log_features.masked_fill(~feature_mask, -torch.inf)
    rows = mean_log.detach().reshape(-1, mean_log.shape[-1])
    if start is None:
        first = _closed_form_start(rows, max_concentration)
    else:
        first = start.detach().reshape(rows.shape).masked_fill(rows == -torch.inf, 0.0)
    tolerance = torch.finfo(rows.dtype).eps ** 0.5 if tolerance is None else tolerance
    n_rows = max(1, _CHUNK // rows.shape[-1])
    pieces = zip(torch.split(rows, n_rows), torch.split(first, n_rows), strict=True)
    solved = torch.cat([_newton(*piece, n_steps, tolerance, max_concentration) for piece in pieces])
    solved = solved.view(mean_log.shape)
    if not (torch.is_grad_enabled() and mean_log_features.requires_grad):
        return solved
    is_bounded = solved.sum(-1, keepdim=True) >= max_concentration * (1 - 1e-6)
    polished = solved - _newton_direction(solved, mean_log)
    return torch.where(is_bounded | (solved == 0), solved, polished)


def mm_step(alpha: Tensor, mean_log_features: Tensor) -> Tensor:
    """Make one majorisation-minimisation step of the paper's solver: slower than Newton, never lowers the likelihood.

    The surrogate is quadratic with curvature c(a) = 2 (lnΓ(1) - lnΓ(a+1) + a ψ(a+1)) / a², and its maximiser is the
    positive root of c x² + b x - 1 = 0 with b = ψ(a+1) - ψ(Σ α) - c a - ȳ.

    Parameters
    ----------
    alpha : Tensor (..., n_features)
        Positive.
    mean_log_features : Tensor (..., n_features)
        ȳ.

    Returns
    -------
    Tensor (..., n_features)
        Positive.

    Source
    ------
    [EMD] M-step. Below α = 0.01 the curvature is taken from its series c(a) = ψ'(1) + (2/3) ψ''(1) a + ¼ ψ'''(1)
    a², where the authors' formula cancels.
    """
    a = alpha.clamp(min=_SMALL_ALPHA)
    exact = 2 * (a * torch.digamma(a + 1) - torch.lgamma(a + 1)) / a.square()
    series = 1.6449340668482264 - 1.6027425391 * alpha + 1.6234848505 * alpha.square()
    curvature = torch.where(alpha < _SMALL_ALPHA, series, exact)
    b = torch.digamma(alpha + 1) - torch.digamma(alpha.sum(-1, keepdim=True)) - curvature * alpha - mean_log_features
    # (-b + sqrt(b² + 4c)) / 2c, written so that nothing cancels when b is large.
    root = (b.square() + 4 * curvature).sqrt()
    return torch.where(b > 0, 2 / (b + root), (root - b) / (2 * curvature))


@dataclass(frozen=True, slots=True, eq=False)
class DirichletLikelihood:
    """An episode on the simplex, for generalized EM; ``parameters`` are α (..., n_way, n_features).

    Attributes
    ----------
    query : Tensor (..., n_queries, n_features)
        ln z of the queries; column k belongs to way k, as in CLIP's image-text probabilities.
    support_sums : Tensor (..., n_way, n_features)
        Σ ln z of each class's support.
    counts : Tensor (..., n_way)
        Support items of each class; 1 for an absent way.
    query_mask, way_mask : Tensor or None
        Which queries and ways are real; None means all.
    """

    query: Tensor
    support_sums: Tensor
    counts: Tensor
    query_mask: Tensor | None
    way_mask: Tensor | None
    proportion_floor: float

    def initial_state(self) -> EMState:
        """Start from u = z: the features are probabilities of the ways already."""
        u = self.query.exp()
        if self.way_mask is not None:
            u = u * self.way_mask[..., None, :]
        return EMState(self._fit(u, None), (proportions(u, self.query_mask) + self.proportion_floor).log())

    def m_step(self, responsibilities: Tensor, parameters: Tensor) -> Tensor:
        """Return the maximum-likelihood α of each class, shape (..., n_way, n_features), started from the last ones."""
        return self._fit(responsibilities, parameters)

    def _fit(self, responsibilities: Tensor, start: Tensor | None) -> Tensor:
        u = responsibilities if self.query_mask is None else responsibilities * self.query_mask[..., None]
        mean_log = (self.support_sums + u.mT @ self.query) / (self.counts + u.sum(-2))[..., None]
        if self.way_mask is None:
            return fit_dirichlet(mean_log, start=start)
        mean_log = torch.where(self.way_mask[..., None], mean_log, -1.0 - mean_log.shape[-1])
        return fit_dirichlet(mean_log, start=start, feature_mask=self.way_mask[..., None, :].expand_as(mean_log))

    def class_logits(self, parameters: Tensor) -> Tensor:
        """Return ln p(z_n|α_k), shape (..., n_queries, n_way)."""
        return dirichlet_log_likelihood(self.query, parameters)

    def fixed_log_likelihood(self, parameters: Tensor) -> Tensor:
        """Return the support's log-likelihood, shape (...)."""
        mean_log = self.support_sums / self.counts[..., None]
        of_mean = dirichlet_log_likelihood(mean_log, parameters).diagonal(dim1=-2, dim2=-1)
        return (self.counts * of_mean if self.way_mask is None else self.counts * of_mean * self.way_mask).sum(-1)


def dirichlet_likelihood(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    *,
    query_mask: Tensor | None = None,
    way_mask: Tensor | None = None,
    proportion_floor: float = 1e-15,
) -> DirichletLikelihood:
    """Prepare an episode of log simplex features for generalized EM.

    Parameters
    ----------
    support : Tensor (..., n_support, n_way)
        ln z of the support, see `simplex_log_features`; column k belongs to way k.
    support_labels : Tensor (..., n_support), int64
    query : Tensor (..., n_queries, n_way)
        ln z of the queries.
    query_mask, way_mask : Tensor, optional
        Which queries and ways are real.
    proportion_floor : float
        Added to the initial π before its logarithm. Default 1e-15, as in the authors' code.
    """
    n_way = query.shape[-1]
    if way_mask is not None:
        support, query = (torch.where(way_mask[..., None, :], tensor, 0.0) for tensor in (support, query))
    counts = class_counts(support_labels, n_way, query.dtype).clamp(min=1)
    sums = class_sums(support, support_labels, n_way)
    return DirichletLikelihood(query, sums, counts, query_mask, way_mask, proportion_floor)


def _newton(mean_log: Tensor, alpha: Tensor, n_steps: int, tolerance: float, max_concentration: float) -> Tensor:
    """Solve rows (n, n_features) of ȳ from a start; minus infinity marks a feature that is not there."""
    alpha = alpha.clone()
    active = torch.arange(len(alpha), device=alpha.device)
    for _ in range(n_steps):
        current = alpha[active]
        direction = _newton_direction(current, mean_log[active], max_concentration)
        proposal = torch.maximum(current - direction, 0.2 * current)
        proposal *= (max_concentration / proposal.sum(-1, keepdim=True)).clamp(max=1)
        alpha[active] = proposal
        if alpha.is_meta:
            break
        change = torch.where(current > 0, (proposal - current) / current, 0.0).abs_().amax(-1)
        active = active[change > tolerance]
        if len(active) == 0:
            break
    return alpha


def _newton_direction(alpha: Tensor, mean_log: Tensor, max_concentration: float = torch.inf) -> Tensor:
    """Return J⁻¹ r with r = ψ(α) - ψ(Σ α) - ȳ and J = diag(q) - ζ 11ᵀ, by Sherman and Morrison's formula.

    Written as ( ψ(α) - ȳ - level ) / q. Where that step would pass the bound of Σ α, a lower level takes it exactly
    there: Newton's step for the largest likelihood on the bound. The gradient flows through ȳ alone, which makes one
    step from a solution differentiable as the solution is.
    """
    with torch.no_grad():
        is_real = alpha > 0
        digamma, q = digamma_trigamma(torch.where(is_real, alpha, 1.0))
        total = alpha.sum(-1, keepdim=True)
        digamma_total, zeta = digamma_trigamma(total)
        weight = is_real / q
        spread = weight.sum(-1, keepdim=True)
        # Positive; the clamp is for its rounding.
        shrink = zeta / (1 - zeta * spread).clamp(min=torch.finfo(alpha.dtype).eps)
    scaled = weight * torch.where(is_real, digamma - mean_log, 0.0)
    step = scaled.sum(-1, keepdim=True)
    level = digamma_total - shrink * (step - digamma_total * spread)
    level_at_bound = (step - total + max_concentration) / spread
    return scaled - weight * torch.minimum(level, level_at_bound)


def _closed_form_start(mean_log: Tensor, max_concentration: float) -> Tensor:
    """Start from Σα = (n-1)/2 / -ln Σ exp(ȳ), exact for large α, and α_i by Minka's inverse digamma of ψ(Σα) + ȳ_i."""
    n_features = (mean_log > -torch.inf).sum(-1, keepdim=True)
    gap = -mean_log.logsumexp(-1, keepdim=True)
    total = (0.5 * (n_features - 1).clamp(min=1) / gap.clamp(min=1e-12)).clamp(min=1e-3, max=max_concentration)
    target = mean_log + digamma_trigamma(total)[0]
    alpha = torch.where(target >= -2.22, target.exp() + 0.5, -1 / (target + _EULER_GAMMA))
    return torch.where(mean_log > -torch.inf, alpha, 0.0)
