"""The images that the report of ``fewshot classify`` shows of each class, in order, and their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.features.images.pictures import Picture
from fewshot.few_shot_classifier.files import Report

from ..shared import output
from ..shared.pictures import Pictures, read_pictures

__all__ = ["SIDE", "Shown", "View", "gather_view"]

SIDE = 96
_MAX_PICTURES = 2400
_MAX_LISTED = 5000
_MAX_SUPPORT = 10


class Shown(NamedTuple):
    """Rows of one class: labelled ones, and queries with the least sure first; ``n_more`` queries are left out."""

    support: list[int]
    queries: list[int]
    n_more: int


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
    classes = list(_class_rows(report, n_each))
    farthest = torch.argsort(answers.p_value, stable=True)
    unknown = _shown(torch.empty(0), farthest[answers.is_unknown[farthest]], 0, n_each)
    found = {
        "support": _pictures(report, "support", [row for shown in classes for row in shown.support], progress),
        "query": _pictures(report, "query", [row for shown in (*classes, unknown) for row in shown.queries], progress),
    }
    warnings = list(dict.fromkeys(text for pictures in found.values() for text in pictures.warnings))
    return View(classes, unknown, {side: pictures.by_row for side, pictures in found.items()}, warnings)


def _class_rows(report: Report, n_each: int) -> Iterator[Shown]:
    answers = report.result.answers
    n_labelled = max(1, min(_MAX_SUPPORT, n_each // 2))
    order = torch.argsort(answers.probability, stable=True)
    by_class = torch.where(answers.is_unknown, -1, answers.best)[order]
    for label in range(len(answers.class_names)):
        yield _shown(report.inputs.support.labels == label, order[by_class == label], n_labelled, n_each)


def _shown(is_support: Tensor, queries: Tensor, n_labelled: int, n_each: int) -> Shown:
    support = torch.nonzero(is_support)[:n_labelled, 0].tolist()
    return Shown(support, queries[:n_each].tolist(), max(0, len(queries) - n_each))


def _pictures(report: Report, side: str, rows: list[int], progress: output.Progress) -> Pictures:
    progress.start(f"pictures of {side}", len(rows))
    pool = report.inputs.support if side == "support" else report.inputs.query
    return read_pictures(pool, rows, side=SIDE, progress=progress)
