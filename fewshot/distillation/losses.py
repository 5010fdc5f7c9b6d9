r"""Losses between a student and its teacher: pure functions of log-probabilities, unit rows or cosines.

Letters: u a teacher's view, v a student's view, b an image of the batch, k a prototype, d a feature, q an entry of a
queue. The teacher's side is constant: it is detached, so no gradient reaches it. All is computed in float32 at least,
also under autocast; half precision is widened. Losses of regions are in `fewshot.distillation.instance_losses`.

Source: [DINO] §3.1 and [MUGS] §3, both with their released code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fewshot.checks import check_choice
from fewshot.distillation.precision import in_full_precision

__all__ = [
    "AVERAGINGS",
    "cluster_cross_entropy",
    "entropy",
    "kl_divergence",
    "pair_weights",
    "queue_contrast",
]

AVERAGINGS = ("all", "halves")


def pair_weights(
    n_teacher: int, n_global: int, n_local: int, averaging: str = "all", *, like: Tensor | None = None
) -> Tensor:
    """Return how much each pair of a teacher's and a student's view counts.

    Parameters
    ----------
    n_teacher : int
        Views of the teacher.
    n_global, n_local : int
        Views of the student: global ones come first.
    averaging : str
        - ``all``: all pairs alike, as in [DINO], [ESVIT] and [CMD];
        - ``halves``: pairs of global views have half of the weight, pairs with a local view the other half, as in
          [MUGS]. Where one kind is missing the other has it all.
    like : Tensor, optional
        Gives dtype (half precision is widened) and device; default float32 on the CPU.

    Returns
    -------
    Tensor (u, v)
        Sums to 1. A view is not compared with the student's of the same index: 0 where u = v.

    Raises
    ------
    ValueError
        If ``averaging`` is unknown, or if there is no pair.

    Notes
    -----
    [MUGS]' code skips u = v too, though its student sees other crops than its teacher; without local views it divides
    by 0.

    Examples
    --------
    >>> pair_weights(2, 2, 1)
    tensor([[0.0000, 0.2500, 0.2500],
            [0.2500, 0.0000, 0.2500]])
    >>> pair_weights(2, 2, 2, "halves")
    tensor([[0.0000, 0.2500, 0.1250, 0.1250],
            [0.2500, 0.0000, 0.1250, 0.1250]])
    """
    check_choice("averaging", averaging, AVERAGINGS)
    n_pairs, n_pairs_global = _n_pairs(n_teacher, n_global + n_local), _n_pairs(n_teacher, n_global)
    if n_pairs == 0:
        raise ValueError(
            f"there must be a pair of different views, got {n_teacher} of the teacher and {n_global} global and "
            f"{n_local} local ones of the student: take two global views"
        )
    dtype, device = (
        (torch.float32, None) if like is None else (torch.promote_types(like.dtype, torch.float32), like.device)
    )
    pairs = torch.ones((n_teacher, n_global + n_local), dtype=dtype, device=device).fill_diagonal_(0)
    if averaging == "all" or n_pairs_global in (0, n_pairs):
        return pairs / n_pairs
    pairs[:, :n_global] /= 2 * n_pairs_global
    pairs[:, n_global:] /= 2 * (n_pairs - n_pairs_global)
    return pairs


def _n_pairs(n_teacher: int, n_student: int) -> int:
    return n_teacher * n_student - min(n_teacher, n_student)


@in_full_precision
def cluster_cross_entropy(log_teacher: Tensor, log_student: Tensor) -> Tensor:
    """Return the cross entropy of each pair of views, ``mean_b -Σ_k P_ubk log S_vbk``.

    Parameters
    ----------
    log_teacher : Tensor (u, b, k)
        log P, log-probabilities; constants.
    log_student : Tensor (v, b, k)
        log S, log-probabilities.

    Returns
    -------
    Tensor (u, v)
        At least the mean entropy of P.

    Source
    ------
    [DINO] §3.1; [MUGS] group discrimination.

    Examples
    --------
    >>> cluster_cross_entropy(torch.tensor([[[0.0, -torch.inf]]]), torch.tensor([[[0.25, 0.75]]]).log())
    tensor([[1.3863]])
    """
    teacher = log_teacher.detach().exp().transpose(0, 1)
    return -(teacher @ log_student.permute(1, 2, 0)).mean(0)


@in_full_precision
def queue_contrast(predictions: Tensor, targets: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE of each pair of views, with the entries of a queue as negatives.

    ``mean_b -log [ exp(p·t / τ) / (exp(p·t / τ) + Σ_q exp(p·q / τ)) ]``.

    Parameters
    ----------
    predictions : Tensor (v, b, d)
        p, of unit length.
    targets : Tensor (u, b, d)
        t, of unit length; constants.
    queue : Tensor (q, d)
        Of unit length; constants. Past targets: the batch's own must not be among them.
    temperature : float
        τ, positive; 0.2 in [MUGS].

    Returns
    -------
    Tensor (u, v)
        Not negative; 0 without an entry; at most ln(1 + n_entries) + 2/τ.

    Notes
    -----
    Where all rows are the same it is ln(1 + n_entries). Appending an entry never lowers it; their order is irrelevant.
    The entries must not change before ``backward``: push afterwards.

    Source
    ------
    [MUGS] Instance and local-group discrimination.

    Examples
    --------
    >>> rows = torch.eye(3)
    >>> queue_contrast(rows[None, :1], rows[None, :1], rows[1:], 0.2)
    tensor([[0.0134]])
    """
    predictions = predictions / temperature
    negatives = torch.logsumexp(predictions @ queue.detach().mT, dim=-1)  # (v, b)
    positives = (predictions.transpose(0, 1) @ targets.detach().permute(1, 2, 0)).permute(2, 1, 0)  # (u, v, b)
    return softplus(negatives - positives).mean(-1)


@in_full_precision
def entropy(log_p: Tensor) -> Tensor:
    """Return the entropy (...) in nats of log-probabilities (..., k); minus infinity counts as nothing.

    Examples
    --------
    >>> entropy(torch.tensor([0.5, 0.5, 0.0]).log())
    tensor(0.6931)
    """
    return -(log_p.exp() * _finite(log_p)).sum(-1)


@in_full_precision
def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) (...) in nats of log-probabilities (..., k).

    Parameters
    ----------
    log_p : Tensor (..., k)
        The target; constants.
    log_q : Tensor (..., k)

    Returns
    -------
    Tensor (...)
        Not negative; 0 where both are the same; huge where q is 0 and p is not.

    Examples
    --------
    >>> kl_divergence(torch.tensor([1.0, 0.0]).log(), torch.tensor([0.25, 0.75]).log())
    tensor(1.3863)
    """
    log_p = log_p.detach()
    return (log_p.exp() * (_finite(log_p) - _finite(log_q))).sum(-1)


def _finite(log_p: Tensor) -> Tensor:
    return log_p.clamp(min=torch.finfo(log_p.dtype).min)
