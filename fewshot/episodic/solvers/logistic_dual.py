r"""Logistic regression in the dual, one small problem per episode, by Newton's method.

The weights of class k are combinations of the support's items, w_k = C Σ_n a_kn z_n, so that the inner products
K = C · Z Zᵀ are all that is needed, and a step costs one n×n factor per class, not one of (classes · n)².
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.prototypes import way_logits

__all__ = ["LogisticDual", "fit_logistic_dual"]

# Newton's convergence is quadratic: a step of this relative size leaves an error of about its square.
_LAST_STEP = 1e-7
_MAX_STEPS = 50
_N_HALVINGS = 12


class LogisticDual(NamedTuple):
    """A logistic regression's solution.

    Attributes
    ----------
    coefficients : Tensor (..., n_way, n_support)
        a; for each class they sum to 0.
    intercepts : Tensor (..., n_way)
        Sum to 0.
    """

    coefficients: Tensor
    intercepts: Tensor

    def logits(self, kernel: Tensor) -> Tensor:
        """Return scores (..., n_way, n_items) from a kernel (..., n_support, n_items)."""
        return self.coefficients @ kernel + self.intercepts[..., None]


def fit_logistic_dual(kernel: Tensor, targets: Tensor, way_mask: Tensor) -> LogisticDual:
    """Minimise - Σ_n ln p_{n y_n} + ½ Σ_k a_kᵀ K a_k, with p = softmax_k( K a_k + b_k ), by Newton's method.

    Parameters
    ----------
    kernel : Tensor (..., n_support, n_support), float64
        K, positive semi-definite.
    targets : Tensor (..., n_way, n_support), float64
        One-hot labels; a column of zeros for padding.
    way_mask : Tensor (..., n_way), bool
        Which ways are real.

    Returns
    -------
    LogisticDual

    Notes
    -----
    A step is Newton's, or the first of ½, ¼ … of it that lowers the objective enough. An episode is frozen once its
    step is so small that only rounding is left; 50 steps at most, of which 5 to 8 are usual. Differentiable: the last
    step alone has the derivatives of the solution.

    Source
    ------
    Rasmussen and Williams, "Gaussian processes for machine learning", 2006, Algorithm 3.3, whose Newton step is that of
    kernel logistic regression; free intercepts by one more Schur complement, ours.
    """
    dual = LogisticDual(torch.zeros_like(targets), torch.zeros_like(targets[..., 0]))
    is_done = torch.zeros_like(way_mask[..., 0])
    for _ in range(_MAX_STEPS):
        step = _newton_step(dual, kernel, targets, way_mask)
        share = _step_share(dual, step, kernel, targets, way_mask).masked_fill(is_done, 0.0)
        step = LogisticDual(share[..., None, None] * step.coefficients, share[..., None] * step.intercepts)
        dual = LogisticDual(*(old + change for old, change in zip(dual, step, strict=True)))
        change, size = (part.logits(kernel).abs().amax((-2, -1)) for part in (step, dual))
        is_done = is_done | (change <= _LAST_STEP * (1 + size))
        if kernel.is_meta or bool(is_done.all()):
            break
    return dual


def _newton_step(dual: LogisticDual, kernel: Tensor, targets: Tensor, way_mask: Tensor) -> LogisticDual:
    """Return the full Newton step.

    With f the logits, W = diag(p) - Σ_n p_n p_nᵀ the curvature of the fit, v = W f + y - p, H the map that gives each
    item its class's intercept, and S = (K + W⁻¹)⁻¹, the step leads to

        Hᵀ S H b = Hᵀ ( v - S K v ),    a = v - S ( K v + H b ).

    Per class E_k = D½ ( I + D½ K D½ )⁻¹ D½ with D = diag(p_k); S is the block diagonal E less E R ( Σ_k E_k )⁻¹ Rᵀ E, R
    stacking identities. Intercepts matter up to a constant for all classes: ones added to Hᵀ S H make them sum to 0.
    """
    is_item = targets.sum(-2, keepdim=True)
    logits = dual.logits(kernel) * way_mask[..., None]
    probs = _probs(logits, way_mask) * is_item
    root = probs.clamp(min=1e-30).sqrt() * is_item * way_mask[..., None]
    identity = torch.eye(kernel.shape[-1]).to(kernel)
    inner = root[..., None] * kernel[..., None, :, :] * root[..., None, :] + identity
    each = root[..., None] * torch.cholesky_inverse(torch.linalg.cholesky_ex(inner).L) * root[..., None, :]
    factor = torch.linalg.cholesky_ex(each.sum(-3) + (1 - is_item) * identity).L  # padding has no curvature

    def curvature(values: Tensor) -> Tensor:
        """Apply S to (..., n_way, n_support)."""
        own = (each @ values[..., None]).squeeze(-1)
        shared = torch.cholesky_solve(own.sum(-2)[..., None], factor)
        return own - (each @ shared[..., None, :, :]).squeeze(-1)

    response = probs * (logits - (probs * logits).sum(-2, keepdim=True)) + targets - probs
    remainder = response - curvature(response @ kernel)
    row_sums = each.sum(-1)
    of_intercepts = torch.diag_embed(row_sums.sum(-1)) - row_sums @ torch.cholesky_solve(row_sums.mT, factor)
    gauge = torch.ones_like(of_intercepts) + torch.diag_embed((~way_mask).to(kernel))
    intercepts = torch.linalg.solve(of_intercepts + gauge, remainder.sum(-1))
    coefficients = remainder - curvature(intercepts[..., None] * is_item)
    return LogisticDual(coefficients - dual.coefficients, intercepts - dual.intercepts)


def _step_share(dual: LogisticDual, step: LogisticDual, kernel: Tensor, targets: Tensor, way_mask: Tensor) -> Tensor:
    """Return the first of 1, ½, ¼ … whose share of the step lowers the objective enough, shape (...)."""
    shares = 0.5 ** torch.arange(_N_HALVINGS, device=kernel.device, dtype=kernel.dtype)
    shares = shares.reshape(-1, *[1] * way_mask[..., 0].dim())
    logits, change = dual.logits(kernel), step.logits(kernel)
    by_old, by_new = ((step.coefficients @ kernel * part.coefficients).sum((-2, -1)) for part in (dual, step))
    residual = (_probs(logits, way_mask) - targets) * targets.sum(-2, keepdim=True)
    slope = (residual * change).sum((-2, -1)) + by_old
    before = _misfit(logits, targets, way_mask)
    after = _misfit(logits + shares[..., None, None] * change, targets, way_mask)
    gain = before - after - shares * by_old - 0.5 * shares.square() * by_new
    is_enough = gain >= -1e-4 * shares * slope - 1e-12 * (1 + before)
    return 0.5 ** is_enough.to(kernel.dtype).argmax(0).to(kernel.dtype)


def _probs(logits: Tensor, way_mask: Tensor) -> Tensor:
    return way_logits(logits.mT, way_mask).softmax(-1).mT


def _misfit(logits: Tensor, targets: Tensor, way_mask: Tensor) -> Tensor:
    """Return - Σ_n ln p_{n y_n}, shape (...)."""
    log_probs = way_logits(logits.mT, way_mask).log_softmax(-1).mT
    return -log_probs.masked_fill(targets == 0, 0.0).sum((-2, -1))
