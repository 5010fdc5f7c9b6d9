"""Draws of class-incremental sessions: their sizes, random ones, and those of published index files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from fewshot_episodes import Session, published_sessions
from torch import Tensor

from fewshot.checks import SettingError
from fewshot.evaluation.held_out import check_test_rows, matched_labels
from fewshot.features import FeatureSet

__all__ = [
    "Draws",
    "SessionSizes",
    "joined_rows",
    "listed_sessions",
    "read_index_files",
    "session_sizes",
]

Draws = list[tuple[Session, ...]]


class SessionSizes(NamedTuple):
    """Sizes of the sessions of an experiment.

    Attributes
    ----------
    n_base : int
        Classes of the base session.
    n_way : int
        New classes of each later session.
    n_shot : tuple of int
        Training rows of each new class; a run for each number.
    n_sessions : int or None
        Sessions after the base session; None: until the classes run out.
    """

    n_base: int
    n_way: int
    n_shot: tuple[int, ...]
    n_sessions: int | None


def joined_rows(pool: FeatureSet, test: FeatureSet | None) -> tuple[FeatureSet, Tensor | None]:
    """Join training and test rows to one pool, and mark the test rows (n,); None without test rows."""
    if test is None:
        return pool, None
    check_test_rows(pool, test)
    labels = torch.cat([pool.labels, matched_labels(pool, test)])
    features = torch.cat([pool.features, test.features.to(pool.features.dtype)])
    ids = None if pool.ids is None else pool.ids + (test.ids or ("",) * len(test.labels))
    is_test = torch.arange(len(labels)) >= len(pool.labels)
    return replace(pool, features=features, labels=labels, ids=ids), is_test


def listed_sessions(
    pool: FeatureSet, is_test: Tensor | None, index_lines: Sequence[Sequence[str]]
) -> tuple[Session, ...]:
    """Build the sessions of published lists.

    Raises
    ------
    SettingError
        If there are no test rows, or rows are listed by file name and the pool has no ids.
    """
    if is_test is None:
        raise SettingError("{index_files} counts training rows: name the test rows with {test}")
    lines = (line for lines in index_lines for line in lines)
    file_name = next((line for line in lines if line.strip() and not line.strip().isdecimal()), None)
    if file_name is not None and pool.ids is None:
        raise SettingError(
            "{index_files} names files, such as {0!r}, and {pool} does not say which file a row is from: make the "
            "features with fewshot extract",
            file_name,
        )
    return published_sessions(pool.labels, pool.ids, index_lines, is_test, class_names=pool.class_names)


def read_index_files(folder: str | os.PathLike[str]) -> list[list[str]]:
    """Read the lines of session_1.txt, session_2.txt, ... of a folder.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or a number is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder of index files: {folder}")
    names = {path.name: path for path in folder.iterdir()}
    numbers = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"session_(\d+)\.txt", name)))
    missing = next(number for number in range(1, len(numbers) + 2) if number not in numbers)
    if missing <= max(numbers, default=1):
        raise FileNotFoundError(f"{folder} has no session_{missing}.txt: index files are session_1.txt, and so on")
    return [names[f"session_{number}.txt"].read_text(encoding="utf-8").splitlines() for number in numbers]


def session_sizes(draw: Sequence[Session]) -> str:
    """Describe the number of new classes of each session.

    Examples
    --------
    >>> from fewshot_episodes import incremental_sessions
    >>> labels = torch.arange(60) % 6
    >>> session_sizes(incremental_sessions(labels, 2, 2, 3, generator=torch.Generator().manual_seed(0)))
    '2 base classes, then 2 sessions of 2 new ones'
    """
    n_base, *n_new = (len(session.new_class_ids) for session in draw)
    if len(set(n_new)) == 1:
        sessions = "1 session" if len(n_new) == 1 else f"{len(n_new):,} sessions"
        return f"{n_base:,} base classes, then {sessions} of {n_new[0]:,} new ones"
    return f"{n_base:,} base classes, then sessions of {' + '.join(map(str, n_new))} new ones"
