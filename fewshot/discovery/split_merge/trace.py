"""Trace of a search by split and merge: a row per round, a row per proposal."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

__all__ = ["Proposal", "Round", "proposals_of"]


class Round(NamedTuple):
    """One round: ``n_classes = n_classes_before + n_sheds + n_splits - n_merges - n_purged``.

    Attributes
    ----------
    n_classes_before, n_sheds, n_splits, n_merges, n_purged, n_classes : int
    evidence : float
        The collapsed objective at the end of the round, nats; comparable within one search.
    log_posterior : float
        Σ_i log π_z N(x_i | μ_z, I) of the hard assignment at the end of the round, nats.
    """

    n_classes_before: int
    n_sheds: int
    n_splits: int
    n_merges: int
    n_purged: int
    n_classes: int
    evidence: float
    log_posterior: float


class Proposal(NamedTuple):
    """One proposal and its outcome.

    Attributes
    ----------
    round : int
    kind : {"shed", "split", "merge"}
    parents, children : tuple of int
        Running ids of components, those of labelled classes first. Of a shed or split the first child keeps the
        parent's id, and of a merge the child has the id of the labelled or else of the first parent. No children where
        it was not accepted.
    log_ratio : float
        log H, nats; minus infinity where there was no proposal to test.
    is_accepted : bool
    reason : str
    """

    round: int
    kind: str
    parents: tuple[int, ...]
    children: tuple[int, ...]
    log_ratio: float
    is_accepted: bool
    reason: str


def proposals_of(
    number: int, kinds: list[str], parents: Tensor, children: Tensor, log_ratio: Tensor, is_accepted: Tensor
) -> list[Proposal]:
    """Convert proposals (p,) with parents (p, 1 or 2) and children (p, 1 or 2) to rows of the trace."""
    rows = zip(kinds, parents.tolist(), children.tolist(), log_ratio.tolist(), is_accepted.tolist(), strict=True)
    return [
        Proposal(number, kind, tuple(of), tuple(to) if taken else (), ratio, taken, _reason(kind, ratio, taken))
        for kind, of, to, ratio, taken in rows
    ]


def _reason(kind: str, log_ratio: float, is_accepted: bool) -> str:
    if log_ratio == -math.inf:
        return "parted in this round" if kind == "merge" else "no two parts of two items each"
    words = f"log ratio {log_ratio:.1f}"
    if is_accepted:
        return f"{words}, above 0" if log_ratio > 0 else f"{words}, accepted by chance"
    if log_ratio <= 0:
        return f"{words}, not above 0"
    return (
        f"{words}, above 0, but one of the two had a better partner" if kind == "merge" else f"{words}, left by chance"
    )
