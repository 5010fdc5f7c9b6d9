"""Results of several documents side by side: one a method and cell, named, and placed behind the best of the cell."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fewshot.checks import SettingError
from fewshot.evaluation.reports.records import Record
from fewshot.metrics.classification import Interval
from fewshot.metrics.comparison import Scored, Standing, standings

__all__ = ["joined"]

_SUFFIXES = (".npz", ".npy", ".safetensors", ".csv", ".parquet", ".pt", ".pth")


def joined(records: Iterable[Record]) -> list[Record]:
    """Join results of several files: name feature sets and methods, and place each result in its cell.

    A result given twice counts once, the later file's.

    Raises
    ------
    SettingError
        If two files hold one cell with other episodes.
    """
    kept = list({(record.cell, record.method, record.settings): record for record in records}.values())
    cells = _grouped(kept, lambda record: record.cell)
    for members in cells.values():
        _check_same_episodes(members)
    sets, repeated = _set_names(kept), _repeated_methods(cells.values())
    behind = {id(record): standing for members in cells.values() for record, standing in _placed(members)}
    return [
        replace(
            record,
            feature_set=sets[record.pool],
            label=f"{record.method} ({record.settings})" if record.method in repeated else record.method,
            behind_best=behind[id(record)],
        )
        for record in kept
    ]


def _grouped(records: Sequence[Record], key: Callable[[Record], Hashable]) -> dict[Hashable, list[Record]]:
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _check_same_episodes(members: Sequence[Record]) -> None:
    first = members[0]
    other = next((record for record in members if record.episode_hash != first.episode_hash), None)
    if other is not None:
        raise SettingError(
            "{0} and {1} hold different episodes of one cell ({2}, {3}; episodes {4} and {5}): run both with the same "
            "{seed} and {n_episodes}, or report them apart",
            *(first.file, other.file, first.features, first.protocol, first.episode_hash, other.episode_hash),
        )


def _repeated_methods(cells: Iterable[Sequence[Record]]) -> set[str]:
    """Return the methods that are in one cell with several settings."""
    return {
        record.method
        for members in cells
        for same in _grouped(members, lambda record: record.method).values()
        for record in same[1:]
    }


def _placed(members: Sequence[Record]) -> Iterable[tuple[Record, Standing]]:
    return zip(members, standings([_scored(record) for record in members]), strict=True)


def _scored(record: Record) -> Scored:
    values = record.episode_accuracy
    return Scored(
        Interval(record.accuracy, record.half_width),
        record.file,
        record.behind_best,
        None if values is None else torch.tensor(values, dtype=torch.float64),
    )


def _set_names(records: Sequence[Record]) -> dict[tuple[object, ...], str]:
    """Return a name for each feature set, as short as tells them apart."""
    distinct: dict[tuple[object, ...], Record] = {record.pool: record for record in records}
    for name_of in (_stem, _with_classes, lambda record: record.features, _spelled_out):
        names = {pool: name_of(record) for pool, record in distinct.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _stem(record: Record) -> str:
    path = Path(record.features)
    return path.stem if path.suffix in _SUFFIXES else path.name


def _with_classes(record: Record) -> str:
    return f"{_stem(record)} ({record.n_classes} classes)"


def _spelled_out(record: Record) -> str:
    return f"{record.features} ({record.n_classes} classes {record.class_digest}, {record.n_rows} rows)"
