"""The report page of ``fewshot classify``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import click

import fewshot
from fewshot.features.images.pictures import name_of
from fewshot.few_shot_classifier.classification import UNKNOWN, AnsweredClass
from fewshot.few_shot_classifier.files import Report
from fewshot.few_shot_classifier.shown import Shown

from ..shared.page import Head, picture, probability_bar, render_page
from ..shared.words import counted, option_name, percent
from .view import SIDE, View
from .words import unknown_words

__all__ = ["render_report"]

# Below this probability an answer is marked.
_UNSURE = 0.5


def render_report(report: Report, view: View, command_line: str, warnings: Sequence[str]) -> str:
    """Return the page; every text that comes from the data is escaped."""
    sections = [
        _classes_section(report),
        *(_class_section(number, row, report, view) for number, row in enumerate(report.result.classes)),
        _unknown_section(report, view),
        _left_out_section(report),
    ]
    lead = "Within each class the least sure images come first: look there for mistakes."
    head = Head("classify", report.names[1], _headline(report), lead, warnings, fewshot.__version__)
    return render_page(head, sections, _facts(report, command_line))


def _n_unknown(report: Report) -> int:
    return int(report.result.answers.is_unknown.sum())


def _headline(report: Report) -> str:
    """Return the counts in words."""
    n_named = counted(len(report.inputs.query.labels), "image", "images")
    unknown = f", {_n_unknown(report):,} unknown" if report.result.can_be_unknown else ""
    return f"{n_named}, {counted(report.inputs.support.n_classes, 'class', 'classes')}{unknown}"


def _classes_section(report: Report) -> str:
    rows = "\n".join(_class_row(number, row) for number, row in enumerate(report.result.classes))
    return f"""<section id="classes" aria-labelledby="classes-title">
<h2 id="classes-title">Classes</h2>
<table><thead><tr><th scope="col">Class</th><th scope="col" class="number">Labelled</th>
<th scope="col" class="number">Named</th><th scope="col">How sure, on average</th></tr></thead>
<tbody>
{rows}{_unknown_row(report)}
</tbody></table>
<p class="note">Unknown: {escape(unknown_words(report))}.</p>
</section>"""


def _class_row(number: int, row: AnsweredClass) -> str:
    return (
        f'<tr><th scope="row"><a href="#class-{number}">{escape(row.name)}</a></th>'
        f'<td class="number">{row.n_support:,}</td><td class="number">{row.n_queries:,}</td>'
        f"<td>{probability_bar(row.mean_probability)}</td></tr>"
    )


def _unknown_row(report: Report) -> str:
    if not report.result.can_be_unknown:
        return ""
    n_unknown = _n_unknown(report)
    link = f'<a href="#{UNKNOWN}">{UNKNOWN}</a>' if n_unknown else UNKNOWN
    return f'\n<tr><th scope="row">{link}</th><td></td><td class="number">{n_unknown:,}</td><td></td></tr>'


def _class_section(number: int, row: AnsweredClass, report: Report, view: View) -> str:
    shown = view.classes[number]
    n_hidden = row.n_support - len(shown.support)
    kind = f"labelled{f', {n_hidden:,} more not shown' if n_hidden > 0 else ''}"
    return (
        f'<section id="class-{number}" aria-labelledby="class-{number}-title">\n'
        f'<h2 id="class-{number}-title">{escape(row.name)} <span class="small">{row.n_queries:,} named</span></h2>\n'
        f"{_group(kind, _labelled(shown.support, report, view))}"
        f"{_queries('named, least sure first', shown, report, view)}</section>"
    )


def _unknown_section(report: Report, view: View) -> str:
    if not view.unknown.queries:
        return ""
    return (
        f'<section id="{UNKNOWN}" aria-labelledby="{UNKNOWN}-title"><h2 id="{UNKNOWN}-title">Unknown '
        f'<span class="small">{_n_unknown(report):,} images</span></h2>\n'
        f'<p class="note">Farther from every class than images of these classes are; the class is the most likely one '
        f"of each.</p>{_queries('farthest first', view.unknown, report, view)}</section>"
    )


def _queries(kind: str, shown: Shown, report: Report, view: View) -> str:
    """Return queries as pictures, or as a table where there are none."""
    if not shown.queries:
        return '<p class="note">No image.</p>'
    more = f'<p class="note">and {shown.n_more:,} more, in predictions.csv</p>' if shown.n_more else ""
    if view.pictures["query"] is not None:
        return _group(kind, (_query_figure(row, report, view) for row in shown.queries)) + more
    return _query_table(shown.queries, report) + more


def _group(kind: str, items: Iterable[str]) -> str:
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f'<ul class="group" data-kind="{kind}" aria-label="{kind}">{listed}</ul>' if listed else ""


def _labelled(rows: Iterable[int], report: Report, view: View) -> Iterable[str]:
    names = ((row, name_of(report.inputs.support, row)) for row in rows)
    pictures = view.pictures["support"]
    if pictures is None:
        return [f'<span class="ids">{escape(name)}</span>' for _, name in names]
    return [f"<figure>{picture(pictures.get(row), name, '', SIDE)}</figure>" for row, name in names]


def _query_figure(row: int, report: Report, view: View) -> str:
    mark = ' class="unsure"' if float(report.result.answers.probability[row]) < _UNSURE else ""
    shown = picture((view.pictures["query"] or {}).get(row), name_of(report.inputs.query, row), "", SIDE)
    return f"<figure{mark}>{shown}<figcaption>{_caption(row, report)}</figcaption></figure>"


def _caption(row: int, report: Report) -> str:
    """Return the probability and the second choice; of an unknown image, its most likely class."""
    answers = report.result.answers
    best, second = (escape(answers.class_names[int(labels[row])]) for labels in (answers.best, answers.second))
    sure = percent(float(answers.probability[row]))
    if answers.is_unknown[row]:
        return f"<b>like {best}</b>{sure}"
    return f"<b>{sure}</b>or {second} {percent(float(answers.second_probability[row]))}"


def _query_table(rows: Iterable[int], report: Report) -> str:
    answers, names = report.result.answers, report.result.answers.class_names
    lines = "\n".join(
        f'<tr><th scope="row">{escape(name_of(report.inputs.query, row))}</th>'
        f"<td>{escape(names[int(answers.best[row])])}</td><td>{percent(float(answers.probability[row]))}</td>"
        f"<td>{escape(names[int(answers.second[row])])} {percent(float(answers.second_probability[row]))}</td></tr>"
        for row in rows
    )
    return f"""<table><thead><tr><th scope="col">Image</th><th scope="col">Most like</th><th scope="col">How sure</th>
<th scope="col">Second choice</th></tr></thead><tbody>
{lines}
</tbody></table>"""


def _left_out_section(report: Report) -> str:
    """List the images that were skipped, and those that are in both folders."""
    skipped = [image.reason for image in report.inputs.skipped]
    twice = [f"{pair.query} is {pair.support}, labelled {pair.class_name}" for pair in report.inputs.duplicates]
    sides = report.inputs.left_out
    unread = [f"{image.file}: {image.kind} ({image.mend})" for found in sides.values() for image in found.unread]
    counts = [f"{option_name(side)}: {found.words()}" for side, found in sides.items() if found.n]
    parts = [
        ("Could not be used", skipped),
        ("Of kinds that are not read", unread),
        ("Files left out", counts),
        ("To name, and labelled too", twice),
    ]
    lists = "".join(_titled_list(title, texts) for title, texts in parts if texts)
    return f'<section id="left-out" aria-label="Left out and duplicates">{lists}</section>' if lists else ""


def _titled_list(title: str, texts: Iterable[str]) -> str:
    return f"<h3>{title}</h3><ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def _facts(report: Report, command_line: str) -> dict[str, str]:
    together = "answers all images together" if report.result.is_transductive else "answers each image alone"
    return {
        "command": click.unstyle(command_line),
        "labelled": f"{report.names[0]}: {len(report.inputs.support.labels):,} images",
        "named": f"{report.names[1]}: {len(report.inputs.query.labels):,} images",
        "method": f"{report.settings.method} ({together}): {report.result.method_settings}",
    }
