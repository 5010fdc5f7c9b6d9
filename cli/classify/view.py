"""The images that the report of ``fewshot classify`` shows of each class, in order, and their pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fewshot.features.images.pictures import Picture
from fewshot.few_shot_classifier.files import Report
from fewshot.few_shot_classifier.shown import Shown, choose_shown

from ..shared import output
from ..shared.pictures import Pictures, read_pictures

__all__ = ["SIDE", "View", "gather_view"]

SIDE = 96
_MAX_PICTURES = 2400
_MAX_LISTED = 5000


class View(NamedTuple):
    """The rows that a page shows, and their pictures.

    Attributes
    ----------
    classes : list of Shown
        One a class, in the order of the answers' names.
    unknown : Shown
        Queries of no class, the farthest first.
    pictures : dict, or None
        By side: pictures by row, where the rows have some.
    warnings : list of str
    """

    classes: list[Shown]
    unknown: Shown
    pictures: Mapping[str, Mapping[int, Picture] | None]
    warnings: list[str]


def gather_view(report: Report, progress: output.Progress) -> View:
    """Choose rows, and read their pictures."""
    answers = report.result.answers
    n_each = (_MAX_PICTURES if report.inputs.query.ids is not None else _MAX_LISTED) // (len(answers.class_names) + 1)
    classes, unknown = choose_shown(report.inputs.support, answers, n_each)
    found = {
        "support": _pictures(report, "support", [row for shown in classes for row in shown.support], progress),
        "query": _pictures(report, "query", [row for shown in (*classes, unknown) for row in shown.queries], progress),
    }
    warnings = list(dict.fromkeys(text for pictures in found.values() for text in pictures.warnings))
    return View(classes, unknown, {side: pictures.by_row for side, pictures in found.items()}, warnings)


def _pictures(report: Report, side: str, rows: list[int], progress: output.Progress) -> Pictures:
    progress.start(f"pictures of {side}", len(rows))
    pool = report.inputs.support if side == "support" else report.inputs.query
    return read_pictures(pool, rows, side=SIDE, progress=progress)
