"""Charts of a discovery's report: the number of classes by round, and the found classes against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fewshot.discovery.split_merge.trace import Round
from fewshot.evaluation.discovery import (
    DiscoveryResult,
    DiscoveryScores,
    TrueClass,
    named_confusion,
    true_classes,
)

from ..shared.words import counted

__all__ = ["confusion_data", "heat_map", "scores_section", "trace_section"]

Confusion = Mapping[str, Mapping[str, int]]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 220, 44, 34, 14
_VARIANTS = {
    "v2": "one matching (the usual figure)",
    "v2b": "one matching, mean over classes",
    "v1": "two matchings",
    "orca": "no matching for known classes",
}
_N_OTHERS = 3


def trace_section(trace: Sequence[Round]) -> str:
    """Return the number of classes from round to round; nothing where there were no rounds."""
    if not trace:
        return ""
    counts = [trace[0].n_classes_before, *(row.n_classes for row in trace)]
    heads = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in trace[0]._fields)
    rows = "".join(_trace_row(number, row) for number, row in enumerate(trace, start=1))
    return f"""<section id="trace" aria-labelledby="trace-title">
<h2 id="trace-title">How the number of classes settled</h2>
{_line_chart(counts)}
<details><summary>The rounds as a table</summary><div class="scroll"><table>
<thead><tr><th scope="col">round</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>
</section>"""


def _trace_row(number: int, row: Round) -> str:
    cells = "".join(f'<td class="number">{_cell(value)}</td>' for value in row)
    return f'<tr><th scope="row">{number}</th>{cells}</tr>'


def _cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


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


def scores_section(result: DiscoveryResult) -> str:
    """Return how well the classes fit the truth; nothing where it is not known."""
    scores = result.scores
    if scores is None:
        return ""
    rows = "".join(_score_row(variant, words, scores) for variant, words in _VARIANTS.items())
    return f"""<section id="scores" aria-labelledby="scores-title">
<h2 id="scores-title">How well it fits the truth</h2>
<p>{counted(scores.n_scored, "unlabelled row", "unlabelled rows")}, {scores.n_old:,} of them of known classes.
There are {scores.n_classes:,} classes, {scores.n_found:,} were found: off by {100 * scores.n_classes_error:.1f} %.
NMI {_share(scores.normalized_mutual_information)}, ARI {_share(scores.adjusted_rand_index)}.</p>
<div class="scroll"><table><caption class="note">Share of the rows in the right class, in %</caption>
<thead><tr><th scope="col">score</th><th scope="col"></th><th scope="col" class="number">All</th>
<th scope="col" class="number">Known</th><th scope="col" class="number">New</th></tr></thead>
<tbody>{rows}</tbody></table></div>
<h3>True classes (down) and found classes (across)</h3>
<div class="frame"><canvas id="heat" role="img" aria-label="Heat map of true against found classes; the table below has
the figures"></canvas><div class="tip" hidden></div></div>
{_truth_table(result, scores)}
</section>"""


def _score_row(variant: str, words: str, scores: DiscoveryScores) -> str:
    cells = "".join(f'<td class="number">{_share(float(share))}</td>' for share in scores.accuracy[variant])
    return f'<tr><th scope="row">{variant}</th><td>{words}</td>{cells}</tr>'


def _share(value: float) -> str:
    return "–" if value != value else f"{100 * value:.1f}"


def _truth_table(result: DiscoveryResult, scores: DiscoveryScores) -> str:
    names = (result.data.pool.class_names, result.found.names)
    confusion = named_confusion(scores, *names)
    rows = "".join(_truth_row(row, confusion) for row in true_classes(scores, *names))
    heads = ("true class", "", "rows", "found as", "% of it there", "% of that is it", "others went to")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<details open><summary>Each true class</summary><div class="scroll">{table}</div></details>'


def _truth_row(row: TrueClass, confusion: Confusion) -> str:
    shared = {name: counts[row.name] for name, counts in confusion.items() if row.name in counts}
    others = sorted(((count, name) for name, count in shared.items() if name != row.found_as), reverse=True)
    words = [f"{name} {count:,}" for count, name in others[:_N_OTHERS]]
    words += [f"and {len(others) - _N_OTHERS} more"] if len(others) > _N_OTHERS else []
    return (
        f'<tr><th scope="row">{escape(row.name)}</th><td>{"known" if row.is_known else "new"}</td>'
        f'<td class="number">{row.n_rows:,}</td><td>{escape(row.found_as or "–")}</td>'
        f'<td class="number">{_share(row.recall)}</td><td class="number">{_share(row.precision)}</td>'
        f"<td>{escape(', '.join(words))}</td></tr>"
    )


def confusion_data(result: DiscoveryResult) -> dict[str, Any] | None:
    """Return the heat map as the page's script draws it; None where the truth is not known."""
    if result.scores is None:
        return None
    names = (result.data.pool.class_names, result.found.names)
    return heat_map(true_classes(result.scores, *names), named_confusion(result.scores, *names))


def heat_map(truths: Sequence[TrueClass], confusion: Confusion) -> dict[str, Any]:
    """Return the cells with rows, found classes in the order of the true classes that they are matched with."""
    place = {row.name: number for number, row in enumerate(truths)}
    matched = [row.found_as for row in truths if row.found_as is not None]
    order = matched + [name for name in confusion if name not in set(matched)]
    cells = [
        [place[name], column, count, round(count / truths[place[name]].n_rows, 3)]
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
