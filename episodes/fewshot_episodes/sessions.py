"""Class-incremental sessions: many base classes, and then a few new ones at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot_episodes.pool import class_pool

__all__ = [
    "SESSION_PROTOCOLS",
    "Session",
    "SessionProtocol",
    "assembled",
    "check_split_sizes",
    "checked_split",
    "class_label",
    "incremental_sessions",
    "places",
]


class Session(NamedTuple):
    """Support and test rows of one session.

    Attributes
    ----------
    support_index : Tensor (n_support,), int64
        Rows of the pool to learn from in this session, class by class.
    query_index : Tensor (n_queries,), int64
        Test rows of **all** classes seen so far, class by class in order of arrival: those of the session before come
        first.
    new_class_ids : Tensor (n_new,), int64
        The classes of ``support_index``, in order of arrival.
    seen_class_ids : Tensor (n_seen,), int64
        The new classes of all sessions so far, in order of arrival.
    """

    support_index: Tensor
    query_index: Tensor
    new_class_ids: Tensor
    seen_class_ids: Tensor


class SessionProtocol(NamedTuple):
    """Sizes of a series of sessions; ``n_sessions`` counts those after the base session."""

    n_base: int
    n_way: int
    n_shot: int
    n_sessions: int


# The three benchmarks of TOPIC (Tao et al., CVPR 2020), as all later papers split them.
SESSION_PROTOCOLS = {
    "cifar100": SessionProtocol(60, 5, 5, 8),
    "miniimagenet": SessionProtocol(60, 5, 5, 8),
    "cub200": SessionProtocol(100, 10, 5, 10),
}


def incremental_sessions(
    labels: Tensor,
    n_base: int,
    n_way: int,
    n_shot: int,
    *,
    n_sessions: int | None = None,
    is_test: Tensor | None = None,
    test_fraction: float = 0.5,
    n_base_items: int | None = None,
    class_order: Tensor | Sequence[int] | str | None = None,
    class_names: Sequence[str] | None = None,
    generator: torch.Generator,
) -> tuple[Session, ...]:
    """Cut a labelled pool into a base session and sessions of a few shots of new classes.

    Call it again with the same generator for another draw.

    Parameters
    ----------
    labels : Tensor (n,), integer
        The pool's labels, not negative.
    n_base : int
        Classes of the base session, which learns from all their training rows.
    n_way, n_shot : int
        New classes per later session, and rows of each to learn from.
    n_sessions : int, optional
        Sessions after the base session, each of ``n_way`` classes. Default: until the classes run out; the last
        session may then be smaller.
    is_test : Tensor (n,), bool, optional
        A given split: shots and base rows are drawn from the other rows, and these are the queries. Without it the
        queries of a base class are ``test_fraction`` of its rows, and those of a new class all rows but its shots.
    test_fraction : float
        In (0, 1). Share of each base class's rows that are test rows (rounded, at least one row on either side); not
        used with ``is_test``.
    n_base_items : int, optional
        Most rows per base class to learn from; default: all its training rows.
    class_order : Tensor or sequence of int, "random", optional
        The class ids in order of arrival; classes not named are left out. Default: ascending. "random": drawn.
    class_names : sequence of str, optional
        Names for error messages, by label.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    tuple of Session
        The base session first. On the CPU; support and queries are disjoint.

    Raises
    ------
    TypeError
        If the labels are not integers, or ``is_test`` is not bool.
    ValueError
        If a setting is out of range, there are too few classes, or a class has too few rows for its session.

    Notes
    -----
    One random order of the rows decides everything, so with one seed the shots of a smaller ``n_shot`` are among those
    of a larger one, and they depend neither on the order of the classes nor on how these are grouped into sessions.
    Without ``is_test``, a new class has more queries than a base class of its size: per-class recalls do not mind,
    the overall accuracy does.

    Source
    ------
    Tao et al., "Few-Shot Class-Incremental Learning", CVPR 2020 (the setting).

    Examples
    --------
    >>> sessions = incremental_sessions(torch.arange(70) % 7, n_base=3, n_way=2, n_shot=4,
    ...                                 generator=torch.Generator().manual_seed(0))
    >>> [(len(session.support_index), len(session.query_index), session.seen_class_ids.tolist())
    ...  for session in sessions]
    [(15, 15, [0, 1, 2]), (8, 27, [0, 1, 2, 3, 4]), (8, 39, [0, 1, 2, 3, 4, 5, 6])]
    """
    _check_settings(n_base, n_way, n_shot, n_sessions, n_base_items, test_fraction)
    pool = class_pool(labels)
    labels = torch.as_tensor(labels).cpu().long()
    given_test = None if is_test is None else checked_split(is_test, labels)
    shuffled = torch.randperm(len(labels), generator=generator)
    order = _class_order(class_order, pool.class_ids, generator)
    n_new = _session_sizes(len(order), n_base, n_way, n_sessions)
    class_ids = order[: sum(n_new)]
    place, is_base = places(labels, class_ids), torch.arange(len(class_ids) + 1) < n_base
    needed = torch.where(is_base, 1, n_shot)
    if given_test is None:
        sizes = torch.bincount(place, minlength=len(is_base))
        _check_sizes(class_ids, sizes, needed + 1, "items", "one of them to test", class_names)
        n_test = (test_fraction * sizes).round().long().clamp(min=1).minimum(sizes - 1)
        n_train = torch.where(is_base, sizes - n_test, n_shot)
        rank = _ranks(place, shuffled)
        tested = rank >= n_train[place]
    else:
        check_split_sizes(class_ids, place, given_test, needed, class_names)
        rank = _ranks(2 * place + given_test.long(), shuffled)
        tested = given_test
    most = torch.where(is_base, len(labels) if n_base_items is None else n_base_items, n_shot)
    return assembled(class_ids, n_new, place, ~tested & (rank < most[place]), tested)


def _check_settings(
    n_base: int, n_way: int, n_shot: int, n_sessions: int | None, n_base_items: int | None, test_fraction: float
) -> None:
    counts = {
        "n_base": n_base, "n_way": n_way, "n_shot": n_shot, "n_sessions": n_sessions, "n_base_items": n_base_items
    }  # fmt: skip
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {test_fraction}")


def checked_split(is_test: Tensor, labels: Tensor) -> Tensor:
    """Return a split on the CPU if it is one of these labels."""
    is_test = torch.as_tensor(is_test).cpu()
    if is_test.dtype != torch.bool:
        raise TypeError(f"is_test must be bool, got {is_test.dtype}")
    if is_test.shape != labels.shape:
        raise ValueError(
            f"is_test must have one entry for each of the {len(labels)} labels, got shape {tuple(is_test.shape)}"
        )
    return is_test


def _class_order(chosen: Tensor | Sequence[int] | str | None, class_ids: Tensor, generator: torch.Generator) -> Tensor:
    if chosen is None:
        return class_ids
    if isinstance(chosen, str):
        if chosen != "random":
            raise ValueError(f"class_order must be class ids, 'random' or None; got {chosen!r}")
        return class_ids[torch.randperm(len(class_ids), generator=generator)]
    order = torch.as_tensor(chosen).cpu().long()
    found, times = torch.unique(order, return_counts=True)
    if len(found) < len(order):
        raise ValueError(f"class_order names class {int(found[times > 1][0])} more than once")
    unknown = found[~torch.isin(found, class_ids)]
    if len(unknown):
        raise ValueError(f"class_order names class {int(unknown[0])}, which no label is")
    return order


def _session_sizes(n_classes: int, n_base: int, n_way: int, n_sessions: int | None) -> list[int]:
    """Count the new classes of each session."""
    if n_base >= n_classes:
        raise ValueError(f"n_base = {n_base} leaves no new class: there are {n_classes} classes")
    if n_sessions is None:
        return [n_base, *(min(n_way, n_classes - start) for start in range(n_base, n_classes, n_way))]
    if n_base + n_sessions * n_way > n_classes:
        raise ValueError(
            f"{n_base} base classes and {n_sessions} sessions of {n_way} are {n_base + n_sessions * n_way} classes, "
            f"but there are {n_classes}: ask for fewer, or leave n_sessions out to use them all"
        )
    return [n_base] + [n_way] * n_sessions


def places(labels: Tensor, class_ids: Tensor) -> Tensor:
    """Return the place of each row's class in ``class_ids``; len(class_ids) for a class that is not there."""
    ascending, place = class_ids.sort()
    found = torch.searchsorted(ascending, labels).clamp(max=len(ascending) - 1)
    return torch.where(ascending[found] == labels, place[found], len(class_ids))


def _ranks(groups: Tensor, shuffled: Tensor) -> Tensor:
    """Return each row's place among the rows of its group, when all rows are in the order ``shuffled``."""
    rows = shuffled[groups[shuffled].argsort(stable=True)]
    sizes = torch.bincount(groups)
    first = sizes.cumsum(0) - sizes
    return torch.empty_like(rows).scatter_(0, rows, torch.arange(len(rows)) - first[groups[rows]])


def assembled(
    class_ids: Tensor, n_new: list[int], place: Tensor, is_support: Tensor, is_test: Tensor
) -> tuple[Session, ...]:
    """Slice the rows, class by class in order of arrival, into sessions."""
    rows = place.argsort(stable=True)
    support, query = rows[is_support[rows]], rows[is_test[rows]]
    ends = torch.tensor([0, *n_new]).cumsum(0)
    support_ends, query_ends = (torch.searchsorted(place[part], ends).tolist() for part in (support, query))
    return tuple(
        Session(
            support_index=support[support_ends[i] : support_ends[i + 1]],
            query_index=query[: query_ends[i + 1]],
            new_class_ids=class_ids[ends[i] : ends[i + 1]],
            seen_class_ids=class_ids[: ends[i + 1]],
        )
        for i in range(len(n_new))
    )


def class_label(class_id: int, class_names: Sequence[str] | None) -> str:
    """Return the name of a class in messages."""
    return f"class {class_id}" if class_names is None else f"class {class_names[class_id]!r}"


def _check_sizes(
    class_ids: Tensor, sizes: Tensor, needed: Tensor, what: str, why: str, class_names: Sequence[str] | None
) -> None:
    """Refuse a class with too few rows; the last entry of ``sizes`` and ``needed`` is that of classes left out."""
    small = torch.nonzero(sizes[:-1] < needed[:-1])[:, 0].tolist()
    if small:
        others = f" (and {len(small) - 1} more such classes)" if len(small) > 1 else ""
        raise ValueError(
            f"{class_label(int(class_ids[small[0]]), class_names)} has {int(sizes[small[0]])} {what}, fewer than the "
            f"{int(needed[small[0]])} that its session needs ({why}){others}: ask for fewer shots, or leave the class "
            "out"
        )


def check_split_sizes(
    class_ids: Tensor, place: Tensor, is_test: Tensor, needed: Tensor, class_names: Sequence[str] | None
) -> None:
    """Refuse a class with too few training rows, or with no test row."""
    n_train, n_test = (torch.bincount(place[part], minlength=len(needed)) for part in (~is_test, is_test))
    _check_sizes(class_ids, n_train, needed, "training items", "besides its test items", class_names)
    _check_sizes(class_ids, n_test, torch.ones_like(needed), "test items", "to be tested", class_names)
