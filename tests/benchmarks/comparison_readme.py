"""README's block of tables, from the stored results of `tests.benchmarks.comparison`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fewshot.cli.report.panels import panels
from fewshot.cli.report.records import Record
from fewshot.cli.report.text import markdown_tables

__all__ = ["tables"]


def tables(records: Sequence[Record], default: str, left_out: Mapping[str, Sequence[Record]]) -> str:
    """Return how the methods stand over all cells, where the default is behind, the tables, and what was left out.

    Parameters
    ----------
    records : sequence of dict
        As `fewshot.cli.report.records.joined` returns them, in the order of the tables.
    default : str
        The method that ships as default.
    left_out : mapping of str to sequence of dict
        Of each feature set, what has no result and why.
    """
    parts = [_standing_table(records), *_default_words(records, default)]
    return "\n".join([*parts, markdown_tables(panels(records), heading="####"), *_reasons(left_out)])


def _standing_table(records: Sequence[Record]) -> str:
    """Say of each method in how many cells it is best or tied, and how far it is behind the best."""
    lines = [
        "| method | best or tied | behind the best, mean | at most |",
        "|---|---:|---:|---:|",
    ]
    for method in dict.fromkeys(record["method"] for record in records):
        behind = [record["behind_best"] for record in records if record["method"] == method]
        means = [100 * standing["mean"] for standing in behind]
        ties = f"{sum(standing['is_tie'] for standing in behind)} of {len(behind)}"
        lines.append(f"| `{method}` | {ties} | {sum(means) / len(means):.1f} | {max(means):.1f} |")
    return "\n".join([*lines, "", "Cells of the tables below, and points behind the best of the cell.", ""])


def _default_words(records: Sequence[Record], default: str) -> list[str]:
    """Say in which cells the default method is behind the best by more than the interval; nothing if it has none."""
    own = [record for record in records if record["method"] == default]
    if not own:
        return []
    behind = [record for record in own if not record["behind_best"]["is_tie"]]
    if not behind:
        return [f"The default, `{default}`, cannot be told from the best in any of the {len(own)} cells.\n"]
    title = {panel_record["protocol"]: panel.title for panel in panels(records) for panel_record in panel.records}
    cells = [
        f"{title[record['protocol']]}, {record['set']}, {record['n_shot']}-shot "
        f"(−{100 * record['behind_best']['mean']:.1f} ± {100 * record['behind_best']['half_width']:.1f})"
        for record in behind
    ]
    return [
        f"The default, `{default}`, is behind the best of its cell by more than the interval in {len(behind)} of "
        f"{len(own)}, in points: {'; '.join(cells)}.\n"
    ]


def _reasons(left_out: Mapping[str, Sequence[Record]]) -> list[str]:
    """Say what was left out, and why; methods and feature sets of one reason together."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for name, rows in left_out.items():
        for row in rows:
            methods, sets = found.setdefault(row["reason"], ({}, {}))
            methods[f"`{row['method']}`"] = sets[name] = None
    return [
        f"Left out: {', '.join(methods)} on {', '.join(sets)}: {reason}\n" for reason, (methods, sets) in found.items()
    ]
