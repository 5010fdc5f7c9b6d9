"""What the report of ``fewshot classify`` shows: which images of each class, in which order, and their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from fewshot.features import FeatureSet

from ..shared import output
from ..shared.pictures import Picture, thumbnails
from ..shared.words import counted
from .files import Answers
from .inputs import Inputs, name_of

__all__ = ["Shown", "View", "gather_view"]

_SIDE = 96
_MAX_PICTURES = 2400
_MAX_LISTED = 5000
_MAX_SUPPORT = 10


class Shown(NamedTuple):
    """Rows of one class: labelled ones, and queries with the least sure first; ``n_more`` queries are left out."""

    support: list[int]
    queries: list[int]
    n_more: int


class View(NamedTuple):
    """What a report holds besides the summary.

    Attributes
    ----------
    classes : list of Shown
        One a class, in the order of the answers' names.
    unknown : Shown
        Queries of no class, the strangest first.
    pictures : dict, or None
        By side: pictures by row, where the rows have some.
    inputs : Inputs
    answers : Answers
    notes : list of str
        What the user should know of the pictures.
    """

    classes: list[Shown]
    unknown: Shown
    pictures: Mapping[str, Mapping[int, Picture] | None]
    inputs: Inputs
    answers: Answers
    notes: list[str]


def gather_view(inputs: Inputs, answers: Answers, progress: output.Progress) -> View:
    """Choose rows, and read their pictures."""
    n_groups = len(answers.class_names) + 1
    pools = {"support": inputs.support, "query": inputs.query}
    n_each = (_MAX_PICTURES if inputs.query.ids is not None else _MAX_LISTED) // n_groups
    n_labelled = max(1, min(_MAX_SUPPORT, n_each // 2))
    order = torch.argsort(answers.probability, stable=True)
    by_class = torch.where(answers.is_unknown, -1, answers.best)[order]
    position = {name: label for label, name in enumerate(inputs.support.class_names)}
    classes = [
        _shown(inputs.support.labels == position[name], order[by_class == label], n_labelled, n_each)
        for label, name in enumerate(answers.class_names)
    ]
    strangest = torch.argsort(answers.p_value, stable=True)
    unknown = _shown(inputs.support.labels < 0, strangest[answers.is_unknown[strangest]], 0, n_each)
    rows = {
        "support": [row for shown in classes for row in shown.support],
        "query": [row for shown in (*classes, unknown) for row in shown.queries],
    }
    found = {side: _pictures(pools[side], rows[side], side, progress) for side in pools}
    notes = list(dict.fromkeys(note for _, texts in found.values() for note in texts))
    return View(classes, unknown, {side: pictures for side, (pictures, _) in found.items()}, inputs, answers, notes)


def _shown(is_support: torch.Tensor, queries: torch.Tensor, n_labelled: int, n_each: int) -> Shown:
    support = torch.nonzero(is_support)[:n_labelled, 0].tolist()
    return Shown(support, queries[:n_each].tolist(), max(0, len(queries) - n_each))


def _pictures(
    pool: FeatureSet, rows: Sequence[int], side: str, progress: output.Progress
) -> tuple[Mapping[int, Picture] | None, list[str]]:
    """Return the pictures that the features know of, and what is to be said of those that are missing."""
    progress.start(f"pictures of {side}", len(rows))
    try:
        found = thumbnails(pool, rows, side=_SIDE, progress=lambda n_done: progress.update(n_done, ""))
    except ImportError:
        return None, ['the report has no pictures without pillow: pip install "fewshot[images]"']
    missing = [row for row, picture in (found or {}).items() if picture is None]
    if not missing:
        return found, []
    said = f"{counted(len(missing), 'picture', 'pictures')} of the report could not be read, such as "
    return found, [f"{said}{name_of(pool, missing[0])}: were images moved?"]
