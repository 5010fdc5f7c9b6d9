"""Tables of README and of the page of results, from the stored results of `tests.benchmarks.comparison`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from fewshot.evaluation.reports import Record, markdown_tables, panels
from fewshot.metrics.comparison import Standing

__all__ = ["LeftOut", "summary_table", "tables"]

# README's rows: the plain baselines, the peers that win somewhere, and our own.
SHOWN = ("nearest-prototype", "logistic-regression", "pt-map", "pt-map-balanced", "unem", "unem-adaptive")


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A method that has no result in a cell, and why."""

    method: str
    settings: str
    n_way: int
    query_distribution: str
    n_effective_way: int
    n_shot: int
    is_postponed: bool
    reason: str


def summary_table(records: Sequence[Record], shots: Sequence[int]) -> str:
    """Return the mean accuracy over the feature sets, with its 95 % interval, of a few methods in each regime.

    The interval is that of a mean of independent means: the root of the sum of their squared half-widths, over their
    number.
    """
    found = panels(records)
    columns = [(panel, n_shot) for panel in found for n_shot in shots]
    heads = [f"{panel.title}: {n_shot}-shot" if n_shot == shots[0] else f"{n_shot}-shot" for panel, n_shot in columns]
    lines = [f"| method | {' | '.join(heads)} |", "|---|" + "---:|" * len(columns)]
    for method in SHOWN:
        cells = [
            [row for row in panel.records if row.method == method and row.n_shot == n_shot] for panel, n_shot in columns
        ]
        if all(cells):
            lines.append(f"| `{method}` | " + " | ".join(map(_mean_over_sets, cells)) + " |")
    return "\n".join(lines) + "\n"


def _mean_over_sets(rows: Sequence[Record]) -> str:
    mean = sum(row.accuracy for row in rows) / len(rows)
    half_width = sqrt(sum(row.half_width**2 for row in rows)) / len(rows)
    return f"{100 * mean:.1f} ± {100 * half_width:.1f}"


def tables(records: Sequence[Record], default: str, left_out: Mapping[str, Sequence[LeftOut]]) -> str:
    """Return how the methods stand over all cells, where the default is behind, the tables, and what was left out.

    Parameters
    ----------
    records : sequence of Record
        As `fewshot.evaluation.reports.joined` returns them, in the order of the tables.
    default : str
        The method that ships as default.
    left_out : mapping of str to sequence of LeftOut
        Of each feature set, what has no result and why.
    """
    parts = [_standing_table(records), *_default_words(records, default)]
    return "\n".join([*parts, markdown_tables(panels(records), heading="##"), *_reasons(left_out)])


def _standing_table(records: Sequence[Record]) -> str:
    """Say of each method in how many cells it is best or tied, and how far it is behind the best."""
    lines = [
        "| method | best or tied | behind the best, mean | at most |",
        "|---|---:|---:|---:|",
    ]
    for method in dict.fromkeys(record.method for record in records):
        behind = [record.behind_best for record in records if record.method == method]
        means = [100 * standing.mean for standing in behind]
        ties = f"{sum(standing.is_tie for standing in behind)} of {len(behind)}"
        lines.append(f"| `{method}` | {ties} | {sum(means) / len(means):.1f} | {max(means):.1f} |")
    return "\n".join([*lines, "", "Cells of the tables below, and points behind the best of the cell.", ""])


def _default_words(records: Sequence[Record], default: str) -> list[str]:
    """Say in which cells the default method is behind the best by more than the interval; nothing if it has none."""
    own = [record for record in records if record.method == default]
    if not own:
        return []
    behind = [record for record in own if not record.behind_best.is_tie]
    if not behind:
        return [f"The default, `{default}`, cannot be told from the best in any of the {len(own)} cells.\n"]
    shots = list(dict.fromkeys(record.n_shot for record in own))
    lines = [
        f"The default, `{default}`, is behind the best of its cell by more than the interval in {len(behind)} of "
        f"{len(own)}, in points:\n",
        f"| queries | feature set | {' | '.join(f'{n_shot}-shot' for n_shot in shots)} |",
        "|---|---|" + "---:|" * len(shots),
    ]
    for panel in panels(own):
        rows = {(record.feature_set, record.n_shot): record.behind_best for record in panel.records}
        for name in dict.fromkeys(name for name, _ in rows):
            cells = [_behind_words(rows.get((name, n_shot))) for n_shot in shots]
            lines.append(f"| {panel.title} | {name} | {' | '.join(cells)} |")
    return ["\n".join([*lines, ""])]


def _behind_words(standing: Standing | None) -> str:
    if standing is None:
        return "–"
    words = f"−{100 * standing.mean:.1f} ± {100 * standing.half_width:.1f}"
    return "best or tied" if standing.is_tie else words


def _reasons(left_out: Mapping[str, Sequence[LeftOut]]) -> list[str]:
    """Say what was left out, and why; methods and feature sets of one reason together."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for name, rows in left_out.items():
        for row in rows:
            methods, sets = found.setdefault(row.reason, ({}, {}))
            methods[f"`{row.method}`"] = sets[name] = None
    return [
        f"Left out: {', '.join(methods)} on {', '.join(sets)}: {reason}\n" for reason, (methods, sets) in found.items()
    ]
