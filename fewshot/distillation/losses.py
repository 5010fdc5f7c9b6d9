r"""Losses between a student and its teacher: pure functions of log-probabilities, unit rows or cosines.

Letters: u a teacher's view, v a student's view, b an image of the batch, n, m instances (tokens) of a view,
k a prototype, d a feature, q an entry of a queue. What the teacher gives is a constant here, whether or not the caller
said so: no gradient reaches it. All is computed in float32 at least, also where autocast is on; half precision is
widened.

Source: [DINO] §3.1, [ESVIT], [MUGS] §3 and [CMD], all with their released code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fewshot.checks import check_choice
from fewshot.distillation.precision import in_full_precision
from fewshot.prototypes import l2_normalize

__all__ = [
    "AVERAGINGS",
    "bag_log_probabilities",
    "cluster_cross_entropy",
    "entropy",
    "instance_cross_entropy",
    "kl_divergence",
    "literal_inter_level",
    "match_instances",
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


@torch.no_grad()
@in_full_precision
def match_instances(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the teacher's instance that is most similar to each of the student's, ``argmax_m cos(s_vbn, t_ubm)``.

    Parameters
    ----------
    student : Tensor (v, b, n, d)
        Tokens of the backbone.
    teacher : Tensor (u, b, m, d)

    Returns
    -------
    Tensor (u, v, b, n), int64
        In [0, m). The lengths of tokens are irrelevant.

    Source
    ------
    [ESVIT] Region-level task, as [CMD] has it.

    Examples
    --------
    >>> tokens = torch.eye(3)
    >>> match_instances(tokens[None, None], tokens[[2, 0, 1]][None, None]).flatten()
    tensor([1, 2, 0])
    """
    candidates = l2_normalize(teacher).transpose(0, 1).flatten(1, 2).mT  # (b, d, u m)
    found = [
        (tokens @ candidates).unflatten(-1, (len(teacher), -1)).argmax(-1).permute(2, 0, 1)
        for tokens in l2_normalize(student)
    ]
    return torch.stack(found, dim=1)


@in_full_precision
def instance_cross_entropy(log_teacher: Tensor, log_student: Tensor, matches: Tensor) -> Tensor:
    """Return the cross entropy between matched instances, ``mean_bn -Σ_k Q_ub,j(n),k log S_vbnk``.

    Parameters
    ----------
    log_teacher : Tensor (u, b, m, k)
        log Q, log-probabilities; constants.
    log_student : Tensor (v, b, n, k)
        log S, log-probabilities.
    matches : Tensor (u, v, b, n), int64
        j, from `match_instances`.

    Returns
    -------
    Tensor (u, v)

    Notes
    -----
    All instances are compared by one matrix product and the matched ones picked out: the teacher's distributions are
    not copied for each instance of the student.

    Source
    ------
    [ESVIT] Region-level task, as [CMD] has it.

    Examples
    --------
    >>> log_q = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()[None, None]
    >>> log_s = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()[None, None]
    >>> instance_cross_entropy(log_q, log_s, torch.tensor([[[[1, 0]]]]))
    tensor([[1.0397]])
    """
    teacher = log_teacher.detach().exp().transpose(0, 1).flatten(1, 2).mT  # (b, k, u m)
    losses = []
    for log_probs, picked in zip(log_student, matches.unbind(1), strict=True):
        every = (log_probs @ teacher).unflatten(-1, (len(log_teacher), -1))  # (b, n, u, m)
        losses.append(-every.gather(-1, picked.permute(1, 2, 0).unsqueeze(-1)).mean((0, 1, 3)))
    return torch.stack(losses, dim=1)


@in_full_precision
def bag_log_probabilities(log_instances: Tensor, log_weights: Tensor) -> Tensor:
    """Return a bag's distribution, the mixture of its instances': ``log b_k = log Σ_n a_n z_nk``.

    Parameters
    ----------
    log_instances : Tensor (..., n, k)
        log z, log-probabilities.
    log_weights : Tensor (..., n)
        log a, log-probabilities, see `InstancePooling`; minus infinity leaves an instance out.

    Returns
    -------
    Tensor (..., k)
        Log-probabilities. The order of instances is irrelevant.

    Examples
    --------
    >>> bag_log_probabilities(torch.eye(2).log(), torch.tensor([0.25, 0.75]).log()).exp()
    tensor([0.2500, 0.7500])
    """
    return torch.logsumexp(log_instances + log_weights.unsqueeze(-1), dim=-2)


@in_full_precision
def literal_inter_level(image_logits: Tensor, instance_logits: Tensor, *, student_temperature: float = 0.1) -> Tensor:
    """Return L_S as the released code has it. A regression value, not a loss to train with.

    ``1/(B K) Σ_bk t_bk (ln t_bk - i_bk)`` over the entries with t > 0, where i = image logits / τ and
    t = Σ_n instance logits / τ, both raw logits.

    Parameters
    ----------
    image_logits : Tensor (v, b, k)
    instance_logits : Tensor (v, b, n, k)
    student_temperature : float
        τ. Default 0.1, as released.

    Returns
    -------
    Tensor (v,)
        Of any sign: it is no divergence.

    Notes
    -----
    A negative target counts as 0, as in torch before 1.13; since then its term is NaN, and the released training stops
    at the first step. The mean over prototypes gives λ a meaning that depends on their number. The target is not
    detached, there as here: the gradient flows into both.

    Source
    ------
    [CMD] Released code.

    Examples
    --------
    >>> literal_inter_level(torch.tensor([[[0.1, 0.2]]]), torch.tensor([[[[0.2, -0.1], [0.1, -0.4]]]]))
    tensor([0.1479])
    """
    image, target = image_logits / student_temperature, instance_logits.sum(-2) / student_temperature
    is_positive = target > 0
    safe = target.where(is_positive, 1.0)
    return (safe * (safe.log() - image)).where(is_positive, 0.0).mean((-2, -1))
