"""What ``fewshot classify`` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from ..shared.output import BOX
from ..shared.tables import fact_lines
from ..shared.words import counted, percent
from .files import REPORT, UNKNOWN

__all__ = ["classification_report", "unknown_words"]

Row = Mapping[str, Any]


def classification_report(document: Row) -> list[RenderableType]:
    """Return a line for each class, and where to look."""
    n_queries, n_classes = document["n_queries"], document["n_classes"]
    head = f"{counted(n_queries, 'image', 'images')} named, {counted(n_classes, 'class', 'classes')}"
    return [head, _table(document), *fact_lines(_facts(document))]


def _table(document: Row) -> Table:
    table = Table(box=BOX)
    table.add_column("class", overflow="fold")
    for name in ("labelled", "named", "mean probability"):
        table.add_column(name, justify="right")
    table.add_column("least sure", overflow="fold")
    for row in document["classes"]:
        least = row["least_sure"]
        words = "" if least is None else f"{least['file']} ({percent(least['probability'])})"
        counts = (f"{row['n_support']:,}", f"{row['n_queries']:,}")
        table.add_row(row["name"], *counts, percent(row["mean_probability"]), words)
    if document["can_be_unknown"]:
        table.add_row(UNKNOWN, "", f"{document['n_unknown']:,}", "", "")
    return table


def _facts(document: Row) -> Iterator[tuple[str, str]]:
    yield "method", f"{document['method']}: {document['method_settings']}"
    yield "unknown", unknown_words(document)
    if document["skipped"]:
        yield "skipped", f"{counted(len(document['skipped']), 'image', 'images')}, listed in summary.json"
    if document["duplicates"]:
        yield "twice", f"{counted(len(document['duplicates']), 'image', 'images')} to name are labelled ones too"
    yield "look at", f"{document['out'].rstrip('/')}/{REPORT}"


def unknown_words(document: Row) -> str:
    """Say how what is of no class was told."""
    share = document["reject"]
    if not share:
        return "not asked for: each image has the class that it is most like"
    if document["can_be_unknown"]:
        return f"about {100 * share:.3g} % of images of these classes are called so by mistake (--reject {share:g})"
    least = math.ceil(1000 * document["smallest_reject"] - 1e-3) / 1000
    other = f"more, or --reject {least:g} or more" if least < 1 else "two or more of a class"
    return f"cannot be told at --reject {share:g} with so few labelled images: give {other}"
