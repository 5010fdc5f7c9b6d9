"""The report of ``fewshot classify``: one page to look at, with everything in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import click

from ..shared.page import Head, picture, probability_bar, render_page
from ..shared.words import counted, percent
from .files import UNKNOWN
from .inputs import name_of
from .table import unknown_words
from .view import Shown, View

__all__ = ["render_report"]

# Below this probability an answer is marked.
_UNSURE = 0.5
Row = Mapping[str, Any]


def render_report(document: Row, view: View) -> str:
    """Return the page; every text that comes from the data is escaped.

    Parameters
    ----------
    document
        The summary.
    view
        Rows and pictures.
    """
    sections = [
        _classes_section(document),
        *(_class_section(number, row, view) for number, row in enumerate(document["classes"])),
        _unknown_section(document, view),
        _left_out_section(document),
    ]
    settings = document["settings"]
    lead = "Within each class the least sure images come first: look there for mistakes."
    asked = settings["query"] or settings["query_features"]
    head = Head("classify", asked, _headline(document), lead, document["warnings"], document["version"])
    return render_page(head, sections, _facts(document))


def _headline(document: Row) -> str:
    """Return the answer in words."""
    n_named = counted(document["n_queries"], "image", "images")
    unknown = f", {document['n_unknown']:,} unknown" if document["can_be_unknown"] else ""
    return f"{n_named}, {counted(document['n_classes'], 'class', 'classes')}{unknown}"


def _classes_section(document: Row) -> str:
    rows = "\n".join(_class_row(number, row) for number, row in enumerate(document["classes"]))
    unknown = ""
    if document["can_be_unknown"]:
        link = f'<a href="#{UNKNOWN}">{UNKNOWN}</a>' if document["n_unknown"] else UNKNOWN
        unknown = (
            f'\n<tr><th scope="row">{link}</th><td></td><td class="number">{document["n_unknown"]:,}</td><td></td></tr>'
        )
    return f"""<section id="classes" aria-labelledby="classes-title">
<h2 id="classes-title">Classes</h2>
<table><thead><tr><th scope="col">Class</th><th scope="col" class="number">Labelled</th>
<th scope="col" class="number">Named</th><th scope="col">How sure, on average</th></tr></thead>
<tbody>
{rows}{unknown}
</tbody></table>
<p class="note">Unknown: {escape(unknown_words(document))}.</p>
</section>"""


def _class_row(number: int, row: Row) -> str:
    return (
        f'<tr><th scope="row"><a href="#class-{number}">{escape(row["name"])}</a></th>'
        f'<td class="number">{row["n_support"]:,}</td><td class="number">{row["n_queries"]:,}</td>'
        f"<td>{probability_bar(row['mean_probability'])}</td></tr>"
    )


def _class_section(number: int, row: Row, view: View) -> str:
    shown, name = view.classes[number], escape(row["name"])
    labelled = row["n_support"] - len(shown.support)
    kind = f"labelled{f', {labelled:,} more not shown' if labelled > 0 else ''}"
    return (
        f'<section id="class-{number}" aria-labelledby="class-{number}-title">\n'
        f'<h2 id="class-{number}-title">{name} <span class="small">{row["n_queries"]:,} named</span></h2>\n'
        f"{_group(kind, _labelled(shown.support, view))}{_queries('named, least sure first', shown, view)}</section>"
    )


def _unknown_section(document: Row, view: View) -> str:
    if not view.unknown.queries:
        return ""
    return (
        f'<section id="{UNKNOWN}" aria-labelledby="{UNKNOWN}-title"><h2 id="{UNKNOWN}-title">Unknown '
        f'<span class="small">{document["n_unknown"]:,} images</span></h2>\n'
        f'<p class="note">Farther from every class than images of these classes are; the class is the one that each is '
        f"most like.</p>{_queries('strangest first', view.unknown, view)}</section>"
    )


def _queries(kind: str, shown: Shown, view: View) -> str:
    """Return queries as pictures, or as a table where there are none."""
    if not shown.queries:
        return '<p class="note">No image.</p>'
    more = f'<p class="note">and {shown.n_more:,} more, in predictions.csv</p>' if shown.n_more else ""
    if view.pictures["query"] is not None:
        return _group(kind, (_query_figure(row, view) for row in shown.queries)) + more
    return _query_table(shown.queries, view) + more


def _group(kind: str, items: Iterable[str]) -> str:
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f'<ul class="group" data-kind="{kind}" aria-label="{kind}">{listed}</ul>' if listed else ""


def _labelled(rows: Iterable[int], view: View) -> Iterable[str]:
    if view.pictures["support"] is None:
        return [f'<span class="ids">{escape(name_of(view.inputs.support, row))}</span>' for row in rows]
    return [f"<figure>{_picture('support', row, view)}</figure>" for row in rows]


def _query_figure(row: int, view: View) -> str:
    sure = float(view.answers.probability[row])
    mark = ' class="unsure"' if sure < _UNSURE else ""
    return f"<figure{mark}>{_picture('query', row, view)}<figcaption>{_caption(row, view)}</figcaption></figure>"


def _caption(row: int, view: View) -> str:
    """Return the probability and the second choice; of what is unknown, the nearest class."""
    answers = view.answers
    best, second = (escape(answers.class_names[int(labels[row])]) for labels in (answers.best, answers.second))
    if answers.is_unknown[row]:
        return f"<b>like {best}</b>{percent(float(answers.probability[row]))}"
    return (
        f"<b>{percent(float(answers.probability[row]))}</b>or {second} "
        f"{percent(float(answers.second_probability[row]))}"
    )


def _picture(side: str, row: int, view: View) -> str:
    return picture((view.pictures[side] or {}).get(row), name_of(getattr(view.inputs, side), row), "", 96)


def _query_table(rows: Iterable[int], view: View) -> str:
    answers, names = view.answers, view.answers.class_names
    lines = "\n".join(
        f'<tr><th scope="row">{escape(name_of(view.inputs.query, row))}</th>'
        f"<td>{escape(names[int(answers.best[row])])}</td><td>{percent(float(answers.probability[row]))}</td>"
        f"<td>{escape(names[int(answers.second[row])])} {percent(float(answers.second_probability[row]))}</td></tr>"
        for row in rows
    )
    return f"""<table><thead><tr><th scope="col">Image</th><th scope="col">Most like</th><th scope="col">How sure</th>
<th scope="col">Second choice</th></tr></thead><tbody>
{lines}
</tbody></table>"""


def _left_out_section(document: Row) -> str:
    """List what was skipped, and what is in both folders."""
    skipped = [row["reason"] for row in document["skipped"]]
    twice = [f"{row['query']} is {row['support']}, labelled {row['class']}" for row in document["duplicates"]]
    parts = [("Could not be used", skipped), ("To name, and labelled too", twice)]
    lists = "".join(
        f"<h3>{title}</h3><ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"
        for title, texts in parts
        if texts
    )
    return f'<section id="left-out" aria-label="Left out and twice there">{lists}</section>' if lists else ""


def _facts(document: Row) -> dict[str, str]:
    settings = document["settings"]
    together = "answers all images together" if document["is_transductive"] else "answers each image alone"
    return {
        "command": click.unstyle(document["command_line"]),
        "labelled": f"{settings['support'] or settings['support_features']}: {document['n_support']:,} images",
        "named": f"{settings['query'] or settings['query_features']}: {document['n_queries']:,} images",
        "method": f"{document['method']} ({together}): {document['method_settings']}",
    }
