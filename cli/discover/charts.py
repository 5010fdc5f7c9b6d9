"""The charts of a discovery's report: how the number of classes settled, and how the classes fit the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..shared.words import counted

__all__ = ["confusion_data", "scores_section", "trace_section"]

Row = Mapping[str, Any]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 220, 44, 34, 14
_VARIANTS = {
    "v2": "one matching (the usual figure)",
    "v2b": "one matching, mean over classes",
    "v1": "two matchings",
    "orca": "no matching for known classes",
}
_N_OTHERS = 3


def trace_section(trace: Sequence[Row]) -> str:
    """Return how the number of classes went from round to round; nothing where there were no rounds."""
    if not trace:
        return ""
    rounds = [trace[0]["n_classes_before"], *(row["n_classes"] for row in trace)]
    columns = list(trace[0])
    heads = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in columns)
    rows = "".join(_trace_row(number, row) for number, row in enumerate(trace, start=1))
    return f"""<section id="trace" aria-labelledby="trace-title">
<h2 id="trace-title">How the number of classes settled</h2>
{_line_chart(rounds)}
<details><summary>The rounds as a table</summary><div class="scroll"><table>
<thead><tr><th scope="col">round</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>
</section>"""


def _trace_row(number: int, row: Row) -> str:
    cells = "".join(f'<td class="number">{_cell(value)}</td>' for value in row.values())
    return f'<tr><th scope="row">{number}</th>{cells}</tr>'


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return (
        f"{value:,}" if isinstance(value, int) else escape(f"{value:,.2f}" if isinstance(value, float) else str(value))
    )


def _line_chart(values: Sequence[int]) -> str:
    """Draw values over rounds 0, 1, ...: an SVG with its axes."""
    low, high = min(values), max(max(values), min(values) + 1)
    across, down = _WIDTH - _LEFT - 12, _HEIGHT - _BOTTOM - _TOP
    xs = [_LEFT + across * number / max(1, len(values) - 1) for number in range(len(values))]
    ys = [_TOP + down * (high - value) / (high - low) for value in values]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    marks = "".join(
        f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>round {number}: {value:,}</title></circle>'
        for number, (x, y, value) in enumerate(zip(xs, ys, values, strict=True))
    )
    ticks = sorted({low, high, values[-1]})
    grid = "".join(_tick(value, _TOP + down * (high - value) / (high - low)) for value in ticks)
    label = f"Number of classes by round: {', '.join(map(str, values))}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" role="img" aria-label="{escape(label)}">{grid}'
        f'<polyline class="line" points="{points}"/>{marks}'
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">round 0</text>'
        f'<text x="{_WIDTH - 12}" y="{_HEIGHT - 8}" text-anchor="end">round {len(values) - 1}</text></svg>'
    )


def _tick(value: int, y: float) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>'
    )


def scores_section(document: Row) -> str:
    """Return how well the classes fit the truth; nothing where it is not known."""
    scores = document["scores"]
    if scores is None:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{words}</td>'
        + "".join(f'<td class="number">{_share(scores["accuracy"][name][part])}</td>' for part in ("all", "old", "new"))
        + "</tr>"
        for name, words in _VARIANTS.items()
    )
    true, error = scores["n_classes"], 100 * scores["n_classes_error"]
    return f"""<section id="scores" aria-labelledby="scores-title">
<h2 id="scores-title">How well it fits the truth</h2>
<p>{counted(scores["n_scored"], "unlabelled row", "unlabelled rows")}, {scores["n_old"]:,} of them of known classes.
There are {true:,} classes, {scores["n_found"]:,} were found: off by {error:.1f} %.
NMI {_share(scores["normalized_mutual_information"])}, ARI {_share(scores["adjusted_rand_index"])}.</p>
<div class="scroll"><table><caption class="note">Share of the rows in the right class, in %</caption>
<thead><tr><th scope="col">score</th><th scope="col"></th><th scope="col" class="number">All</th>
<th scope="col" class="number">Known</th><th scope="col" class="number">New</th></tr></thead>
<tbody>{rows}</tbody></table></div>
<h3>True classes (down) and found classes (across)</h3>
<div class="frame"><canvas id="heat" role="img" aria-label="Heat map of true against found classes; the table below has
the figures"></canvas><div class="tip" hidden></div></div>
{_truth_table(document)}
</section>"""


def _share(value: float | None) -> str:
    return "–" if value is None or value != value else f"{100 * value:.1f}"


def _truth_table(document: Row) -> str:
    confusion = document["scores"]["confusion"]
    rows = "".join(_truth_row(row, confusion) for row in document["scores"]["classes"])
    heads = ("true class", "", "rows", "found as", "% of it there", "% of that is it", "others went to")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<details open><summary>Each true class</summary><div class="scroll">{table}</div></details>'


def _truth_row(row: Row, confusion: Mapping[str, Mapping[str, int]]) -> str:
    shared = {name: counts[row["class"]] for name, counts in confusion.items() if row["class"] in counts}
    others = sorted(((count, name) for name, count in shared.items() if name != row["found_as"]), reverse=True)
    words = [f"{name} {count:,}" for count, name in others[:_N_OTHERS]]
    words += [f"and {len(others) - _N_OTHERS} more"] if len(others) > _N_OTHERS else []
    return (
        f'<tr><th scope="row">{escape(row["class"])}</th><td>{"known" if row["is_known"] else "new"}</td>'
        f'<td class="number">{row["n_rows"]:,}</td><td>{escape(row["found_as"] or "–")}</td>'
        f'<td class="number">{_share(row["recall"])}</td><td class="number">{_share(row["precision"])}</td>'
        f"<td>{escape(', '.join(words))}</td></tr>"
    )


def confusion_data(document: Row) -> dict[str, Any] | None:
    """Return the cells with rows, found classes in the order of the true classes that they match."""
    if document["scores"] is None:
        return None
    truths, confusion = document["scores"]["classes"], document["scores"]["confusion"]
    place = {row["class"]: number for number, row in enumerate(truths)}
    matched = [row["found_as"] for row in truths if row["found_as"] is not None]
    order = matched + [name for name in confusion if name not in set(matched)]
    cells = [
        [place[name], column, count, round(count / truths[place[name]]["n_rows"], 3)]
        for column, found in enumerate(order)
        for name, count in confusion[found].items()
    ]
    return {
        "n_classes": len(place),
        "n_clusters": len(order),
        "classes": list(place),
        "clusters": order,
        "cells": cells,
    }
