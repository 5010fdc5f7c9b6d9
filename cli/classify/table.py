"""The result of ``fewshot classify`` on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table

from fewshot.features.images.pictures import name_of
from fewshot.few_shot_classifier.classification import UNKNOWN
from fewshot.few_shot_classifier.files import Report

from ..shared.output import BOX
from ..shared.page import REPORT
from ..shared.tables import fact_lines
from ..shared.words import counted, option_name, percent
from .words import unknown_words

__all__ = ["classification_report"]


def classification_report(report: Report, out: str) -> list[RenderableType]:
    """Return a line for each class, and where to look."""
    n_queries, n_classes = len(report.inputs.query.labels), report.inputs.support.n_classes
    head = f"{counted(n_queries, 'image', 'images')} named, {counted(n_classes, 'class', 'classes')}"
    return [head, _table(report), *fact_lines(_facts(report, out))]


def _table(report: Report) -> Table:
    table = Table(box=BOX)
    table.add_column("class", overflow="fold")
    for name in ("labelled", "named", "mean probability"):
        table.add_column(name, justify="right")
    table.add_column("least sure", overflow="fold")
    answers, query = report.result.answers, report.inputs.query
    for row in report.result.classes:
        least = row.least_sure
        words = "" if least is None else f"{name_of(query, least)} ({percent(float(answers.probability[least]))})"
        table.add_row(row.name, f"{row.n_support:,}", f"{row.n_queries:,}", percent(row.mean_probability), words)
    if report.result.can_be_unknown:
        table.add_row(UNKNOWN, "", f"{int(answers.is_unknown.sum()):,}", "", "")
    return table


def _facts(report: Report, out: str) -> Iterator[tuple[str, str]]:
    yield "method", f"{report.settings.method}: {report.result.method_settings}"
    yield "unknown", unknown_words(report)
    if report.inputs.skipped:
        yield "skipped", f"{counted(len(report.inputs.skipped), 'image', 'images')}, listed in summary.json"
    for side, left_out in report.inputs.left_out.items():
        if left_out.n:
            yield f"left out of {option_name(side)}", left_out.words()
    if report.inputs.duplicates:
        yield "twice", f"{counted(len(report.inputs.duplicates), 'image', 'images')} to name are labelled ones too"
    yield "look at", f"{out.rstrip('/')}/{REPORT}"
