"""Records as tables: one a way of drawing the queries, a row a method, a column a feature set and number of shots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fewshot.evaluation.reports.records import Record

__all__ = ["BEST", "PAIRED", "UNPAIRED", "Panel", "grade", "panels", "query_words"]

BEST, PAIRED, UNPAIRED = "best", "paired", "unpaired"
# With more columns, intervals stand below the table.
_MOST_WITH_INTERVALS = 6


class Panel(NamedTuple):
    """One table.

    Attributes
    ----------
    title : str
    columns : list of (str, int or None)
        Feature set and number of shots.
    rows : dict of str to list
        Of each method the record of each column, or None.
    """

    title: str
    columns: list[tuple[str, int | None]]
    rows: dict[str, list[Record | None]]

    @property
    def records(self) -> list[Record]:
        """All results of the table."""
        return [record for row in self.rows.values() for record in row if record is not None]

    def shots(self, feature_set: str) -> list[int | None]:
        """Return the numbers of shots of a feature set."""
        return [n_shot for name, n_shot in self.columns if name == feature_set]

    def lines(self, feature_set: str) -> dict[str, list[Record]]:
        """Return the results of each method on a feature set, of those that have some."""
        own = {
            label: [record for record in row if record and record.feature_set == feature_set]
            for label, row in self.rows.items()
        }
        return {label: records for label, records in own.items() if records}

    @property
    def has_intervals(self) -> bool:
        """Whether each cell has room for its interval."""
        return len(self.columns) <= _MOST_WITH_INTERVALS


def panels(records: Sequence[Record]) -> list[Panel]:
    """Return the tables, everything in the order of its first appearance."""
    key = _coarse if _has_one_protocol(records) else _fine
    regimes = list(dict.fromkeys(key(record) for record in records))
    return [_panel([record for record in records if key(record) == regime]) for regime in regimes]


def grade(record: Record) -> str | None:
    """Say whether a result is the best of its cell, or a tie by a paired or an unpaired interval."""
    behind = record.behind_best
    if behind.mean == 0:
        return BEST
    if not behind.is_tie:
        return None
    return PAIRED if behind.is_paired else UNPAIRED


def _panel(records: Sequence[Record]) -> Panel:
    columns = list(dict.fromkeys((record.feature_set, record.n_shot) for record in records))
    sets = list(dict.fromkeys(name for name, _ in columns))
    columns.sort(key=lambda column: sets.index(column[0]))
    at = {(record.label, record.feature_set, record.n_shot): record for record in records}
    labels = dict.fromkeys(record.label for record in records)
    rows = {label: [at.get((label, *column)) for column in columns] for label in labels}
    return Panel(_title(records), columns, rows)


def _coarse(record: Record) -> tuple[object, ...]:
    regime = record.query_distribution, record.n_effective_way, record.dirichlet_concentration
    return record.n_way, *regime, record.is_disjoint


def _fine(record: Record) -> tuple[object, ...]:
    return *_coarse(record), record.n_query, record.n_query_total


def _has_one_protocol(records: Sequence[Record]) -> bool:
    """Whether a table may hold feature sets with other numbers of queries: no set has two in one column."""
    fine = {(*_fine(record), record.feature_set, record.n_shot) for record in records}
    coarse = {(*_coarse(record), record.feature_set, record.n_shot) for record in records}
    return len(fine) == len(coarse)


def _title(records: Sequence[Record]) -> str:
    first = records[0]
    overlap = "" if first.is_disjoint else ", support and query may overlap"
    if first.n_way is None:
        return f"Ways and shots as the classes (Meta-Dataset){overlap}"
    shares = f"Dirichlet({first.dirichlet_concentration or 0:g}) shares"
    words = {"balanced": "balanced queries", "uniform": "uniform queries", "dirichlet": f"queries in {shares}"}
    is_all = first.n_effective_way == first.n_way
    ways = "" if is_all else f" of {first.n_effective_way} of the ways"
    return f"{first.n_way}-way, {words[str(first.query_distribution)]}{ways}{overlap}"


def query_words(panel: Panel) -> str:
    """Say how many queries the episodes have, and of which sets that differs."""
    sets = {record.feature_set: _queries(record) for record in panel.records}
    if len(set(sets.values())) == 1:
        return next(iter(sets.values()))
    return "; ".join(f"{name}: {words}" for name, words in sets.items())


def _queries(record: Record) -> str:
    if record.n_query is not None:
        return f"{record.n_query} queries per class"
    return "queries as the classes" if record.n_query_total is None else f"{record.n_query_total} queries in all"
