"""Class-incremental sessions as the published lists of rows have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fewshot_episodes.pool import class_pool
from fewshot_episodes.sessions import Session, assembled, check_split_sizes, checked_split, class_label, places

__all__ = ["published_sessions"]


def published_sessions(
    labels: Tensor,
    ids: Sequence[str] | None,
    index_lines: Sequence[Sequence[str]],
    is_test: Tensor,
    *,
    class_names: Sequence[str] | None = None,
) -> tuple[Session, ...]:
    """Read the sessions from the lines of the published index files ``session_1.txt`` and following.

    Parameters
    ----------
    labels : Tensor (n,), integer
        The pool's labels, not negative.
    ids : sequence of n str, or None
        Each row's file; only its last path components count, as many as the index file's line shares with it. May be
        None for lists of integers.
    index_lines : sequence of sequences of str
        The lines of each file, the base session's first. Lines are all integers, counting the training rows in the
        pool's order from 0 (CIFAR100), or all paths (CUB200, miniImageNet). Blank lines do not count.
    is_test : Tensor (n,), bool
        The benchmark's own test rows.
    class_names : sequence of str, optional
        Names for error messages, by label.

    Returns
    -------
    tuple of Session
        One per file. Within a session the classes are in ascending order.

    Raises
    ------
    ValueError
        If a line matches no training row or several, a file names a row twice or a class of an earlier file, or a
        class has no test row.

    Notes
    -----
    As in the published loaders, the base session learns from **all** training rows of its classes. Of the first file
    only the classes are read; left empty, it stands for all classes that no later file names.

    Source
    ------
    [TEEN] and CEC, released code, ``data/index_list`` (the same files in both), and the loaders beside it.

    Examples
    --------
    >>> sessions = published_sessions(torch.tensor([0, 0, 1, 1, 2, 2]), None, [["0"], ["2"], ["1"]],
    ...                               torch.tensor([False, True] * 3))
    >>> [(session.support_index.tolist(), session.query_index.tolist()) for session in sessions]
    [([0], [1]), ([4], [1, 5]), ([2], [1, 5, 3])]
    """
    class_pool(labels)
    labels = torch.as_tensor(labels).cpu().long()
    is_test = checked_split(is_test, labels)
    if len(index_lines) < 2:
        raise ValueError(f"index_lines must hold the base session's file and at least one more, got {len(index_lines)}")
    files = [[line.strip() for line in lines if line.strip()] for lines in index_lines]
    find = _row_finder(files, ids, len(labels), torch.nonzero(~is_test)[:, 0].tolist())
    rows = [_matched_rows(number, lines, find) for number, lines in enumerate(files, start=1)]
    groups = [torch.unique(labels[own]) for own in rows]
    if not files[0]:
        is_later = torch.isin(labels, torch.cat(groups[1:]))
        groups[0] = torch.unique(labels[~is_later & ~is_test])
    class_ids = torch.cat(groups)
    _check_arrivals(groups, class_names)
    place = places(labels, class_ids)
    is_support = ~is_test & (place < len(groups[0]))
    is_support[torch.cat(rows[1:])] = True
    needed = torch.zeros(len(class_ids) + 1, dtype=torch.int64)
    check_split_sizes(class_ids, place, is_test, needed, class_names)
    return assembled(class_ids, [len(group) for group in groups], place, is_support, is_test)


def _check_arrivals(groups: list[Tensor], class_names: Sequence[str] | None) -> None:
    """Refuse an empty session, and a class that arrives twice."""
    arrived: dict[int, int] = {}
    for number, group in enumerate(groups, start=1):
        if not len(group):
            raise ValueError(f"index file {number} names no row")
        for class_id in group.tolist():
            if class_id in arrived:
                raise ValueError(
                    f"index file {number} names rows of {class_label(class_id, class_names)}, which came with file "
                    f"{arrived[class_id]}: are the training rows in the order, and the labels those, of the published "
                    "data?"
                )
            arrived[class_id] = number


def _matched_rows(number: int, lines: list[str], find: Callable[[str], list[int]]) -> Tensor:
    """Return the one training row of each line of index file ``number``."""
    found = []
    for line in lines:
        rows = find(line)
        if len(rows) != 1:
            count = f"{len(rows)} training rows" if rows else "no training row"
            raise ValueError(f"{line!r} of index file {number} matches {count} of the pool")
        found.append(rows[0])
    if len(set(found)) < len(found):
        twice = next(line for line, row in zip(lines, found, strict=True) if found.count(row) > 1)
        raise ValueError(f"{twice!r} of index file {number} names a row that the file names twice")
    return torch.tensor(found, dtype=torch.int64)


def _row_finder(
    files: list[list[str]], ids: Sequence[str] | None, n_rows: int, train_rows: list[int]
) -> Callable[[str], list[int]]:
    """Return the function from a line to the training rows that match it."""
    if all(line.isdecimal() for lines in files for line in lines):
        return lambda line: train_rows[int(line) : int(line) + 1]
    if ids is None:
        raise ValueError("the index files name paths: give ids, the file of each row")
    if len(ids) != n_rows:
        raise ValueError(f"ids must have one entry for each of the {n_rows} labels, got {len(ids)}")
    by_name: dict[str, list[tuple[int, list[str]]]] = {}
    for row in train_rows:
        parts = _path_parts(ids[row])
        by_name.setdefault(parts[-1], []).append((row, parts))
    return lambda line: _nearest_rows(_path_parts(line), by_name)


def _nearest_rows(wanted: list[str], by_name: Mapping[str, list[tuple[int, list[str]]]]) -> list[int]:
    """Return the rows that share the most trailing components, and at least file and folder where both have one."""
    shared = [(row, parts, _n_shared(parts, wanted)) for row, parts in by_name.get(wanted[-1], [])]
    most = max((n_shared for _, _, n_shared in shared), default=0)
    return [row for row, parts, n_shared in shared if n_shared == most and n_shared >= min(2, len(parts), len(wanted))]


def _path_parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part] or [path]


def _n_shared(one: list[str], other: list[str]) -> int:
    """Count the trailing components that two paths share."""
    n_shared = 0
    for mine, yours in zip(reversed(one), reversed(other), strict=False):
        if mine != yours:
            break
        n_shared += 1
    return n_shared
