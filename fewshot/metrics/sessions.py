"""Scores of class-incremental sessions, each computed from one confusion matrix over all classes seen so far."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.metrics.classification import harmonic_mean

__all__ = [
    "SessionScores",
    "average_accuracy",
    "average_harmonic_mean",
    "confusion_matrix",
    "generalized_accuracy",
    "performance_drop",
    "session_accuracies",
    "session_scores",
]


class SessionScores(NamedTuple):
    """Scores of a session, float64, in the shape of the batch; base classes came in session 0, new classes later.

    Attributes
    ----------
    overall : Tensor (...)
        Accuracy over all queries (micro accuracy): classes with more queries weigh more.
    base, new : Tensor (...)
        Mean recall of the base or new classes, the classifier choosing among all seen classes.
    harmonic_mean : Tensor (...)
        Of ``base`` and ``new``.
    new_to_base_rate : Tensor (...)
        Share of the new classes' queries that are predicted as a base class.
    new_to_new_rate : Tensor (...)
        Share of the new classes' queries that are predicted as a wrong new class.
    base_to_new_rate : Tensor (...)
        Share of the base classes' queries that are predicted as a new class.
    gap : Tensor (...)
        ``base - new``.
    old_current_harmonic_mean : Tensor (...)
        Of the mean recalls of all classes seen before, few-shot ones included, and of the classes of the current
        session. Some papers call this HM; it is not comparable with ``harmonic_mean``.
    novel_only_harmonic_mean : Tensor (...)
        Of ``base`` and of the mean recall of the new classes where the classifier chooses **among new classes only**.
        Some papers call this HM; it is optimistic. NaN unless the restricted predictions were given.
    """

    overall: Tensor
    base: Tensor
    new: Tensor
    harmonic_mean: Tensor
    new_to_base_rate: Tensor
    new_to_new_rate: Tensor
    base_to_new_rate: Tensor
    gap: Tensor
    old_current_harmonic_mean: Tensor
    novel_only_harmonic_mean: Tensor


def confusion_matrix(predictions: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Count the predictions of each class.

    Parameters
    ----------
    predictions : Tensor (..., n), int64
        In [0, n_classes).
    labels : Tensor (..., n), int64
        In [0, n_classes), or -1 for padding, which is not counted.
    n_classes : int

    Returns
    -------
    Tensor (..., n_classes, n_classes), int64
        Row: the true class. Column: the predicted class.

    Examples
    --------
    >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    is_real = labels >= 0
    cell = torch.where(is_real, labels * n_classes + predictions, 0)
    counts = labels.new_zeros((*labels.shape[:-1], n_classes * n_classes))
    return counts.scatter_add_(-1, cell, is_real.long()).view(*labels.shape[:-1], n_classes, n_classes)


def session_scores(
    confusion: Tensor, class_sessions: Tensor, *, novel_confusion: Tensor | None = None
) -> SessionScores:
    """Compute the scores of a session.

    Parameters
    ----------
    confusion : Tensor (..., n_seen, n_seen)
        Counts over the classes seen so far; row: the true class.
    class_sessions : Tensor (..., n_seen), int64
        The session in which each class came: 0 for a base class. The highest is the current session.
    novel_confusion : Tensor (..., n_seen, n_seen), optional
        The same, the classifier choosing among the new classes only; the rows of the base classes are not read.

    Returns
    -------
    SessionScores
        NaN where a score is undefined: those of new classes in session 0, those of classes without queries.

    Notes
    -----
    Classes without queries are left out of a mean of recalls. Where all new classes have equally many queries,
    ``1 - new = new_to_base_rate + new_to_new_rate``.

    Source
    ------
    [TEEN] released code (``base`` is its ``seen_acc``, ``new`` its ``unseen_acc``), which adds 1e-12 to the
    denominator of the harmonic mean; here 0 and 0 give 0. The code has no confusion rates: the paper's FPR and FNR are
    named here by their direction.

    Examples
    --------
    >>> confusion = torch.tensor([[8, 1, 1], [2, 8, 0], [5, 0, 5]])
    >>> scores = session_scores(confusion, torch.tensor([0, 0, 1]))
    >>> [round(value.item(), 4) for value in scores[:8]]
    [0.7, 0.8, 0.5, 0.6154, 0.5, 0.0, 0.05, 0.3]
    """
    confusion = confusion.double()
    is_base = class_sessions == 0
    is_current = class_sessions == class_sessions.amax(-1, keepdim=True)
    n_items, n_right = confusion.sum(-1), confusion.diagonal(dim1=-2, dim2=-1)
    recall = n_right / n_items
    n_as_base = (confusion * is_base[..., None, :]).sum(-1)
    base, new = _mean(recall, is_base), _mean(recall, ~is_base)
    novel_recall = torch.full_like(recall, torch.nan) if novel_confusion is None else _recall(novel_confusion)
    return SessionScores(
        overall=n_right.sum(-1) / n_items.sum(-1),
        base=base,
        new=new,
        harmonic_mean=harmonic_mean(base, new),
        new_to_base_rate=_share(n_as_base, n_items, ~is_base),
        new_to_new_rate=_share(n_items - n_as_base - n_right, n_items, ~is_base),
        base_to_new_rate=_share(n_items - n_as_base, n_items, is_base),
        gap=base - new,
        old_current_harmonic_mean=harmonic_mean(_mean(recall, ~is_current), _mean(recall, is_current)),
        novel_only_harmonic_mean=harmonic_mean(base, _mean(novel_recall, ~is_base)),
    )


def session_accuracies(confusion: Tensor, class_sessions: Tensor, n_sessions: int) -> Tensor:
    """Compute the accuracy on the classes of each session.

    Parameters
    ----------
    confusion : Tensor (..., n_seen, n_seen)
    class_sessions : Tensor (..., n_seen), int64
        In [0, n_sessions).
    n_sessions : int

    Returns
    -------
    Tensor (..., n_sessions), float64
        NaN for a later session.

    Examples
    --------
    >>> session_accuracies(torch.tensor([[8, 2], [5, 5]]), torch.tensor([0, 1]), 3).tolist()
    [0.8, 0.5, nan]
    """
    confusion = confusion.double()
    is_member = (class_sessions[..., None] == torch.arange(n_sessions, device=class_sessions.device)).double()
    n_right, n_items = confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1)
    return torch.einsum("...k,...ks->...s", n_right, is_member) / torch.einsum("...k,...ks->...s", n_items, is_member)


def average_accuracy(overall: Tensor) -> Tensor:
    """Compute the mean overall accuracy over the sessions, session 0 included; (..., n_sessions) to (...).

    Examples
    --------
    >>> average_accuracy(torch.tensor([0.75, 0.5, 0.25])).item()
    0.5
    """
    return overall.mean(-1)


def performance_drop(overall: Tensor) -> Tensor:
    """Compute the overall accuracy of session 0 minus that of the last session; (..., n_sessions) to (...).

    Examples
    --------
    >>> performance_drop(torch.tensor([0.75, 0.5, 0.25])).item()
    0.5
    """
    return overall[..., 0] - overall[..., -1]


def average_harmonic_mean(harmonic_means: Tensor) -> Tensor:
    """Compute the mean of the harmonic mean over the sessions after the base session; (..., n_sessions) to (...).

    The entry of session 0, where it is undefined, is not read; NaN if there is no later session.

    Examples
    --------
    >>> average_harmonic_mean(torch.tensor([float("nan"), 0.5, 0.25])).item()
    0.375
    """
    return harmonic_means[..., 1:].mean(-1)


def generalized_accuracy(accuracies: Tensor, base_weight: float) -> Tensor:
    """Compute the accuracy averaged over sessions and over the weights of the base classes, from 0 to ``base_weight``.

    With ``A_tj`` the accuracy after session t on the classes of session j and r the ``base_weight``:
    ``g_t(a) = (a · A_t0 + sum_{j=1..t} A_tj) / (a + t)``, and the score is the mean over t = 0, 1, … of
    ``1/r · ∫_0^r g_t(a) da``, where ``g_0 = A_00``. At a = 0 only the new classes count.

    Parameters
    ----------
    accuracies : Tensor (..., n_sessions, n_sessions)
        ``A_tj`` at [t, j], from :func:`session_accuracies`; entries above the diagonal are not read.
    base_weight : float
        The largest weight, in sessions: ``n_base // n_way``, at which all classes weigh the same. Not negative.

    Returns
    -------
    Tensor (...)
        In [0, 1].

    Raises
    ------
    ValueError
        If ``base_weight`` is negative.

    Notes
    -----
    The integral is exact: ``A_t0 + (sum_j A_tj - t · A_t0) · log(1 + r/t) / r``. Only a description of the published
    code was at hand: its numerical integral, and whether its mean includes session 0, were not compared.

    Source
    ------
    Kim et al., "Rethinking Few-shot Class-incremental Learning: Learning from Yourself", ECCV 2024 (gAcc).

    Examples
    --------
    >>> round(generalized_accuracy(torch.tensor([[0.9, float("nan")], [0.8, 0.4]]), 3.0).item(), 4)
    0.7576
    """
    if base_weight < 0:
        raise ValueError(f"base_weight must not be negative, got {base_weight}")
    n_sessions, base = accuracies.shape[-1], accuracies[..., 0]
    has_come = torch.ones(n_sessions, n_sessions, dtype=torch.bool, device=accuracies.device).tril()
    over_base = torch.where(has_come, accuracies - base[..., None], 0.0).sum(-1)
    shares = [0.0, *(math.log1p(base_weight / t) / base_weight if base_weight else 1 / t for t in range(1, n_sessions))]
    return (base + over_base * base.new_tensor(shares)).mean(-1)


def _recall(confusion: Tensor) -> Tensor:
    return confusion.diagonal(dim1=-2, dim2=-1).double() / confusion.sum(-1)


def _mean(recall: Tensor, is_chosen: Tensor) -> Tensor:
    """Average over the chosen classes that have queries; NaN if there is none."""
    counts = is_chosen & ~recall.isnan()
    return torch.where(counts, recall, 0.0).sum(-1) / counts.sum(-1)


def _share(n_found: Tensor, n_items: Tensor, is_chosen: Tensor) -> Tensor:
    return (n_found * is_chosen).sum(-1) / (n_items * is_chosen).sum(-1)
