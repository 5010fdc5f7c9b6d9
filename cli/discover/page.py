"""The report of ``fewshot discover``: one page to look at, with everything in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import click

from ..shared.page import fill_page, read_text
from ..shared.words import counted, percent
from .charts import confusion_data, scores_section, trace_section
from .view import UNSURE, Examples, View

__all__ = ["headline", "lead", "render_report"]

Row = Mapping[str, Any]
_GOLDEN_ANGLE = 137.508
_COLUMNS = (
    ("name", "Class"),
    ("", "What is in it"),
    ("rows", "Rows"),
    ("sure", "How sure"),
    ("cosine", "Nearest known"),
)


def render_report(document: Row, view: View) -> str:
    """Return the page; every text that comes from the data is escaped.

    Parameters
    ----------
    document
        The summary.
    view
        Rows, pictures and map.
    """
    sections = [
        _map_section(document, view),
        _classes_section(document, view),
        trace_section(document["trace"]),
        scores_section(document),
        _about_section(document),
    ]
    return fill_page(
        "discover/page.html",
        title=escape(f"{headline(document)} · fewshot discover"),
        header=_header(document),
        body="\n".join(filter(None, sections)),
        footer=escape(f"Made by fewshot {document['version']}. This page needs no network."),
        data=_data(document, view),
        js=read_text("discover/page.js"),
    )


def headline(document: Row) -> str:
    """Return the answer in words."""
    n_known, n_new = document["n_known"], document["n_new"]
    total = counted(document["n_classes"], "class", "classes")
    return f"{total}: {n_known:,} known, {n_new:,} new"


def lead(document: Row) -> str:
    """Return where the unlabelled rows went."""
    n_rows = counted(document["n_unlabelled"], "unlabelled row", "unlabelled rows")
    n_new = sum(row["n_unlabelled"] for row in document["classes"] if not row["is_known"])
    return f"Of {n_rows}, {document['n_unlabelled'] - n_new:,} are of known classes and {n_new:,} of new ones."


def _header(document: Row) -> str:
    n_known, n_new = document["n_known"], document["n_new"]
    total = escape(counted(document["n_classes"], "class", "classes"))
    warnings = "".join(f"<li>{escape(text)}</li>" for text in document["warnings"])
    return (
        f'<p class="kicker">fewshot discover · {escape(document["features"]["name"])}</p>\n'
        f'<h1>{total}: <span class="known">{n_known:,} known</span>, <span class="new">{n_new:,} new</span></h1>\n'
        f'<p class="lead">{escape(lead(document))}</p>'
        + (f'\n<ul class="warnings" aria-label="Warnings">{warnings}</ul>' if warnings else "")
    )


def _map_section(document: Row, view: View) -> str:
    if view.map is None:
        return ""
    n_points, n_rows = len(view.map.rows), document["n_rows"]
    some = "" if n_points == n_rows else f" {n_points:,} of the {n_rows:,} rows are on it."
    options = "".join(
        f'<option value="{i}">{escape(row["name"])}</option>' for i, row in enumerate(document["classes"])
    )
    return f"""<section id="map" aria-labelledby="map-title">
<h2 id="map-title">Map</h2>
<div class="tools"><label>Colour <select id="colour"><option value="kind">known or new</option>
<option value="class">class</option><option value="sure">how sure</option></select></label>
<label>Class <select id="highlight"><option value="-1">all</option>{options}</select></label></div>
<div class="frame"><canvas role="img" aria-label="Map of the rows in two dimensions, {n_points:,} points; the table of
classes says the same in words"></canvas><div class="tip" hidden></div></div>
<p class="note">Near neighbours stay near (t-SNE); distances between groups and their sizes mean little.{some}
Known classes are <span class="known">blue</span>, new ones <span class="new">orange</span>.</p>
</section>"""


def _classes_section(document: Row, view: View) -> str:
    numbered = sorted(enumerate(document["classes"]), key=lambda item: (item[1]["is_known"], -item[1]["n_rows"]))
    rows = "\n".join(_class_row(number, row, view) for number, row in numbered)
    heads = "".join(_head(key, name) for key, name in _COLUMNS)
    orders = "".join(f'<option value="{key}">{name.lower()}</option>' for key, name in _COLUMNS if key)
    return f"""<section id="classes" aria-labelledby="classes-title">
<h2 id="classes-title">Classes</h2>
<div class="tools"><label>Search <input id="q" type="search" placeholder="class, nearest class"></label>
<label>Show <select id="show"><option value="all">all</option><option value="new">new</option>
<option value="known">known</option></select></label>
<label>Sort by <select id="order"><option value="">new first</option>{orders}</select></label>
<output id="n-shown" aria-live="polite"></output></div>
<p class="note">{_explained(view)}</p>
<table id="class-table" role="table"><thead role="rowgroup"><tr role="row">{heads}</tr></thead>
<tbody role="rowgroup">
{rows}
</tbody></table>
</section>"""


def _explained(view: View) -> str:
    shown = "Pictures" if view.pictures is not None else "Rows, by their numbers in the features,"
    return (
        f"{shown} are the most typical unlabelled rows of a class and those that it is least sure of; rows below "
        f"{100 * UNSURE:.0f} % are called unsure. Click a class to see it on the map."
    )


def _head(key: str, name: str) -> str:
    if not key:
        return f'<th scope="col" role="columnheader">{name}</th>'
    button = f'<button type="button" data-sort="{key}">{name}</button>'
    kind = ' class="number"' if key == "rows" else ""
    return f'<th scope="col" role="columnheader" aria-sort="none"{kind}>{button}</th>'


def _class_row(number: int, row: Row, view: View) -> str:
    name, near = row["name"], row["nearest_known"] or ""
    kind = "known" if row["is_known"] else "new"
    sure, cosine = row["mean_probability"], row["nearest_known_cosine"]
    data = {
        "name": name,
        "rows": row["n_unlabelled"],
        "sure": "" if sure is None else f"{sure:.6f}",
        "cosine": "" if cosine is None else cosine,
        "known": int(row["is_known"]),
        "text": f"{name} {near} {row['came_from']}".lower(),
    }
    attributes = " ".join(f'data-{key}="{escape(str(value))}"' for key, value in data.items())
    labelled = f'<span class="small">and {row["n_labelled"]:,} labelled</span>' if row["n_labelled"] else ""
    nearest = f'{escape(near)} <span class="small">cosine {cosine:.2f}</span>' if near else ""
    came_from = f'<span class="small">{escape(row["came_from"])}</span>' if row["came_from"] else ""
    return (
        f'<tr role="row" {attributes} style="--h:{number * _GOLDEN_ANGLE % 360:.1f}"><th scope="row" role="rowheader">'
        f'<button type="button" class="pick" aria-pressed="false" data-class="{number}"><span class="swatch"></span>'
        f'{escape(name)}</button> <span class="badge {kind}">{kind}</span> {came_from}</th>'
        f'<td role="cell">{_examples(view.examples[number], view)}</td>'
        f'<td role="cell" class="number" data-label="Rows">{row["n_unlabelled"]:,} {labelled}</td>'
        f'<td role="cell" data-label="How sure">{_sure(sure, row["n_unsure"])}</td>'
        f'<td role="cell" data-label="Nearest known">{nearest}</td></tr>'
    )


def _sure(sure: float | None, n_unsure: int) -> str:
    if sure is None:
        return ""
    unsure = f' <span class="small">{n_unsure:,} unsure</span>' if n_unsure else ""
    return f'{percent(sure)}<span class="bar" aria-hidden="true"><i style="width:{100 * sure:.0f}%"></i></span>{unsure}'


def _examples(examples: Examples, view: View) -> str:
    groups = zip(("labelled", "found: typical", "found: least sure"), examples, strict=True)
    show = _listed if view.pictures is None else _pictured
    shown = "".join(show(kind, rows, view) for kind, rows in groups if rows)
    return f'<div class="groups">{shown}</div>'


def _listed(kind: str, rows: Iterable[int], view: View) -> str:
    names = ", ".join(view.name_of(row) for row in rows)
    return f'<p class="ids"><span class="small">{kind}</span>{escape(names)}</p>'


def _pictured(kind: str, rows: Iterable[int], view: View) -> str:
    items = "".join(f"<li>{_picture(row, view)}</li>" for row in rows)
    return f'<ul class="group" data-kind="{kind}" aria-label="{kind}">{items}</ul>'


def _picture(row: int, view: View) -> str:
    name = escape(view.name_of(row))
    picture = (view.pictures or {}).get(row)
    if picture is None:
        return f'<span class="none" title="{name}">could not be read: {name}</span>'
    is_labelled = bool(view.data.shown[row] >= 0)
    how = "labelled" if is_labelled else f"{percent(float(view.found.probability[row]))} sure"
    return f'<img src="{picture}" alt="{name}" title="{name} ({how})" width="64" height="64" loading="lazy">'


def _about_section(document: Row) -> str:
    source = document["features"]["source"]
    facts = {
        "command": click.unstyle(" ".join(document["command"])),
        "features": f"{document['features']['name']}: {document['n_rows']:,} rows of "
        f"{document['features']['n_features']:,} features",
        "images": str(source.get("images", "")),
        "rows": document["protocol"],
        "method": document["method"],
    }
    items = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text)
    return (
        f'<section id="about" aria-labelledby="about-title"><h2 id="about-title">How it was made</h2><dl>{items}</dl>'
        "</section>"
    )


def _data(document: Row, view: View) -> str:
    """Return what the page's script reads, safe inside of a script element."""
    content = {
        "classes": [{"name": row["name"], "known": row["is_known"]} for row in document["classes"]],
        "map": None if view.map is None else _map_data(view),
        "ids": None if view.map is None else [view.name_of(row) for row in view.map.rows.tolist()],
        "confusion": confusion_data(document),
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _map_data(view: View) -> dict[str, Any]:
    """Return the points: places, class, percent sure, and whether labelled."""
    assert view.map is not None
    rows = view.map.rows
    return {
        "x": view.map.places[:, 0].tolist(),
        "y": view.map.places[:, 1].tolist(),
        "c": view.found.labels[rows].tolist(),
        "p": (100 * view.found.probability[rows]).floor().long().tolist(),
        "l": "".join("1" if label >= 0 else "0" for label in view.data.shown[rows].tolist()),
    }
