"""Choice of the items of each class that a report of a classification shows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.features import FeatureSet
from fewshot.few_shot_classifier.classification import Answers

__all__ = ["Shown", "choose_shown"]

_MAX_SUPPORT = 10


class Shown(NamedTuple):
    """Rows of one class: labelled ones, and queries with the least sure first; ``n_more`` queries are left out."""

    support: list[int]
    queries: list[int]
    n_more: int


def choose_shown(support: FeatureSet, answers: Answers, n_each: int) -> tuple[list[Shown], Shown]:
    """Choose at most ``n_each`` queries of each class, and a few of its labelled items.

    Parameters
    ----------
    support : FeatureSet
    answers : Answers
        Of the queries, from that support.
    n_each : int

    Returns
    -------
    classes : list of Shown
        One a class, in the order of the answers' names.
    unknown : Shown
        Queries of no class, the farthest first.

    Examples
    --------
    >>> from fewshot.few_shot_classifier.classification import ClassifySettings, classify
    >>> support = FeatureSet.from_arrays([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0]], ["crow", "crow", "wren"])
    >>> query = FeatureSet.from_arrays([[0.0, 1.0], [0.5, 0.9], [0.8, 0.1]], [-1, -1, -1])
    >>> answers = classify(support, query, ClassifySettings(method="simpleshot", reject=0.0)).answers
    >>> choose_shown(support, answers, 1)[0][0]
    Shown(support=[0], queries=[1], n_more=1)
    """
    n_labelled = max(1, min(_MAX_SUPPORT, n_each // 2))
    order = torch.argsort(answers.probability, stable=True)
    by_class = torch.where(answers.is_unknown, -1, answers.best)[order]
    classes = [
        _shown(support.labels == label, order[by_class == label], n_labelled, n_each)
        for label in range(len(answers.class_names))
    ]
    farthest = torch.argsort(answers.p_value, stable=True)
    return classes, _shown(torch.empty(0), farthest[answers.is_unknown[farthest]], 0, n_each)


def _shown(is_support: Tensor, queries: Tensor, n_labelled: int, n_each: int) -> Shown:
    support = torch.nonzero(is_support)[:n_labelled, 0].tolist()
    return Shown(support, queries[:n_each].tolist(), max(0, len(queries) - n_each))
