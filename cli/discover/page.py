"""The report page of ``fewshot discover``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import click
import torch

import fewshot
from fewshot.evaluation.discovery import ClassProfile, DiscoveryResult, Examples, PoolMap
from fewshot.evaluation.discovery.profiles import UNSURE
from fewshot.evaluation.discovery.summary import lineage_words
from fewshot.features.images.pictures import Picture, name_of

from ..shared.page import Head, picture, probability_bar, read_text, render_page
from ..shared.words import counted, percent
from .charts import confusion_data, scores_section, trace_section

__all__ = ["SIDE", "Report", "headline", "lead", "render_report"]

# Of the pictures as they are stored; the page shows them smaller, and a dense screen all of it.
SIDE = 96
_SHOWN_SIDE = 64
_GOLDEN_ANGLE = 137.508
_COLUMNS = (
    ("name", "Class"),
    ("", "Examples"),
    ("rows", "Rows"),
    ("sure", "How sure"),
    ("cosine", "Nearest known"),
)


class Report(NamedTuple):
    """The material of a page.

    Attributes
    ----------
    features : str
        The name of the features.
    result : DiscoveryResult
    pictures : mapping, or None
        By row; None where the features do not say what their images are.
    """

    features: str
    result: DiscoveryResult
    pictures: Mapping[int, Picture] | None

    def name_of(self, row: int) -> str:
        """Return the name of a row's image, or its number."""
        return name_of(self.result.data.pool, row)


def render_report(report: Report, command: Sequence[str], warnings: Iterable[str]) -> str:
    """Return the page; every text that comes from the data is escaped.

    Parameters
    ----------
    report
    command
        The words of the command line.
    warnings
    """
    result = report.result
    sections = [
        "" if result.map is None else _map_section(result, result.map),
        _classes_section(report),
        trace_section(result.found.trace),
        scores_section(result),
    ]
    words = (report.features, headline(result), lead(result))
    head = Head("discover", *words, warnings, fewshot.__version__)
    scripts = (
        f'<script type="application/json" id="data">{_data(report)}</script>\n'
        f"<script>{read_text('discover/page.js')}</script>"
    )
    return render_page(head, sections, _facts(report, command), heading=_heading(result), scripts=scripts)


def headline(result: DiscoveryResult) -> str:
    """Return the numbers of classes in words."""
    total = counted(result.found.n_classes, "class", "classes")
    return f"{total}: {result.found.n_known:,} known, {_n_new(result):,} new"


def _n_new(result: DiscoveryResult) -> int:
    return result.found.n_classes - result.found.n_known


def lead(result: DiscoveryResult) -> str:
    """Return where the unlabelled rows went."""
    n_rows = sum(row.n_unlabelled for row in result.classes)
    n_new = sum(row.n_unlabelled for row in result.classes if not row.is_known)
    rows = counted(n_rows, "unlabelled row", "unlabelled rows")
    return f"Of {rows}, {n_rows - n_new:,} are of known classes and {n_new:,} of new ones."


def _heading(result: DiscoveryResult) -> str:
    total = escape(counted(result.found.n_classes, "class", "classes"))
    return (
        f'{total}: <span class="known">{result.found.n_known:,} known</span>, '
        f'<span class="new">{_n_new(result):,} new</span>'
    )


def _map_section(result: DiscoveryResult, layout: PoolMap) -> str:
    n_points, n_rows = len(layout.rows), len(result.data.shown)
    some = "" if n_points == n_rows else f" {n_points:,} of the {n_rows:,} rows are on it."
    options = "".join(f'<option value="{k}">{escape(row.name)}</option>' for k, row in enumerate(result.classes))
    return f"""<section id="map" aria-labelledby="map-title">
<h2 id="map-title">Map</h2>
<div class="tools"><label>Colour <select id="colour"><option value="kind">known or new</option>
<option value="class">class</option><option value="sure">how sure</option></select></label>
<label>Class <select id="highlight"><option value="-1">all</option>{options}</select></label></div>
<div class="frame"><canvas role="img" aria-label="Map of the rows in two dimensions, {n_points:,} points; the table of
classes has the same in words"></canvas><div class="tip" hidden></div></div>
<p class="note">Near neighbours stay near (t-SNE); distances between groups and their sizes mean little.{some}
Known classes are <span class="known">blue</span>, new ones <span class="new">orange</span>.</p>
</section>"""


def _classes_section(report: Report) -> str:
    numbered = sorted(enumerate(report.result.classes), key=lambda item: (item[1].is_known, -item[1].n_rows))
    rows = "\n".join(_class_row(number, row, report) for number, row in numbered)
    heads = "".join(_head(key, name) for key, name in _COLUMNS)
    orders = "".join(f'<option value="{key}">{name.lower()}</option>' for key, name in _COLUMNS if key)
    return f"""<section id="classes" aria-labelledby="classes-title">
<h2 id="classes-title">Classes</h2>
<div class="tools"><label>Search <input id="q" type="search" placeholder="class, nearest class"></label>
<label>Show <select id="show"><option value="all">all</option><option value="new">new</option>
<option value="known">known</option></select></label>
<label>Sort by <select id="order"><option value="">new first</option>{orders}</select></label>
<output id="n-shown" aria-live="polite"></output></div>
<p class="note">{_explained(report)}</p>
<table id="class-table" role="table"><thead role="rowgroup"><tr role="row">{heads}</tr></thead>
<tbody role="rowgroup">
{rows}
</tbody></table>
</section>"""


def _explained(report: Report) -> str:
    shown = "Pictures" if report.pictures is not None else "Rows, by their numbers in the features,"
    return (
        f"{shown} are the most typical and the least sure unlabelled rows of a class; rows below {100 * UNSURE:.0f} % "
        "are called unsure. Click a class to see it on the map."
    )


def _head(key: str, name: str) -> str:
    if not key:
        return f'<th scope="col" role="columnheader">{name}</th>'
    button = f'<button type="button" data-sort="{key}">{name}</button>'
    kind = ' class="number"' if key == "rows" else ""
    return f'<th scope="col" role="columnheader" aria-sort="none"{kind}>{button}</th>'


def _class_row(number: int, row: ClassProfile, report: Report) -> str:
    lineage = lineage_words(row.lineage, report.result.found)
    kind = "known" if row.is_known else "new"
    labelled = _small(f"and {row.n_labelled:,} labelled" if row.n_labelled else "")
    return (
        f'<tr role="row" {_sort_keys(row, lineage)} style="--h:{number * _GOLDEN_ANGLE % 360:.1f}">'
        f'<th scope="row" role="rowheader">'
        f'<button type="button" class="pick" aria-pressed="false" data-class="{number}"><span class="swatch"></span>'
        f'{escape(row.name)}</button> <span class="badge {kind}">{kind}</span> {_small(lineage)}</th>'
        f'<td role="cell">{_examples(report.result.examples[number], report)}</td>'
        f'<td role="cell" class="number" data-label="Rows">{row.n_unlabelled:,} {labelled}</td>'
        f'<td role="cell" data-label="How sure">{_sure(row)}</td>'
        f'<td role="cell" data-label="Nearest known">{_nearest(row)}</td></tr>'
    )


def _sort_keys(row: ClassProfile, lineage: str) -> str:
    """Return the attributes that the page's script sorts and searches by."""
    sure, cosine = row.mean_probability, row.nearest_known_cosine
    data = {
        "name": row.name,
        "rows": row.n_unlabelled,
        "sure": "" if sure is None else f"{sure:.6f}",
        "cosine": "" if cosine is None else cosine,
        "known": int(row.is_known),
        "text": f"{row.name} {row.nearest_known or ''} {lineage}".lower(),
    }
    return " ".join(f'data-{key}="{escape(str(value))}"' for key, value in data.items())


def _small(text: str) -> str:
    return f'<span class="small">{escape(text)}</span>' if text else ""


def _nearest(row: ClassProfile) -> str:
    if row.nearest_known is None:
        return ""
    return f"{escape(row.nearest_known)} {_small(f'cosine {row.nearest_known_cosine:.2f}')}"


def _sure(row: ClassProfile) -> str:
    if row.mean_probability is None:
        return ""
    unsure = f" {_small(f'{row.n_unsure:,} unsure')}" if row.n_unsure else ""
    return f"{probability_bar(row.mean_probability)}{unsure}"


def _examples(examples: Examples, report: Report) -> str:
    groups = zip(("labelled", "found: typical", "found: least sure"), examples, strict=True)
    show = _listed if report.pictures is None else _pictured
    shown = "".join(show(kind, rows, report) for kind, rows in groups if rows)
    return f'<div class="groups">{shown}</div>'


def _listed(kind: str, rows: Iterable[int], report: Report) -> str:
    names = ", ".join(report.name_of(row) for row in rows)
    return f'<p class="ids"><span class="small">{kind}</span>{escape(names)}</p>'


def _pictured(kind: str, rows: Iterable[int], report: Report) -> str:
    items = "".join(f"<li>{_picture(row, report)}</li>" for row in rows)
    return f'<ul class="group" data-kind="{kind}" aria-label="{kind}">{items}</ul>'


def _picture(row: int, report: Report) -> str:
    is_labelled = not bool(report.result.data.is_unlabelled[row])
    how = "labelled" if is_labelled else f"{percent(float(report.result.found.probability[row]))} sure"
    return picture((report.pictures or {}).get(row), report.name_of(row), f" ({how})", _SHOWN_SIDE)


def _facts(report: Report, command: Sequence[str]) -> dict[str, str]:
    pool = report.result.data.pool
    n_rows, n_features = pool.features.shape
    return {
        "command": click.unstyle(" ".join(command)),
        "features": f"{report.features}: {n_rows:,} rows of {n_features:,} features",
        "images": str(pool.source.get("images", "")),
        "rows": report.result.data.protocol,
        "method": report.result.found.method,
    }


def _data(report: Report) -> str:
    """Return the data of the page's script, safe inside of a script element."""
    result = report.result
    content = {
        "classes": [{"name": row.name, "known": row.is_known} for row in result.classes],
        "map": None if result.map is None else _map_data(result, result.map),
        "ids": None if result.map is None else [report.name_of(row) for row in result.map.rows.tolist()],
        "confusion": confusion_data(result),
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _map_data(result: DiscoveryResult, layout: PoolMap) -> dict[str, Any]:
    """Return the points: places, class, percent sure, and whether labelled."""
    is_labelled = (~result.data.is_unlabelled[layout.rows]).to(torch.uint8)
    return {
        "x": layout.places[:, 0].tolist(),
        "y": layout.places[:, 1].tolist(),
        "c": result.found.labels[layout.rows].tolist(),
        "p": (100 * result.found.probability[layout.rows]).floor().long().tolist(),
        "l": "".join(map(str, is_labelled.tolist())),
    }
