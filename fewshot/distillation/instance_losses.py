r"""Losses between the instances (tokens, regions) of a student and its teacher, and distributions of bags of instances.

Letters: u a teacher's view, v a student's view, b an image of the batch, n, m instances of a view, k a prototype,
d a feature. As in `fewshot.distillation.losses`, the teacher's side is constant and half precision is widened.

Source: [ESVIT] and [CMD], both with their released code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.distillation.precision import in_full_precision
from fewshot.prototypes import l2_normalize

__all__ = ["bag_log_probabilities", "instance_cross_entropy", "literal_inter_level", "match_instances"]


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
