"""The folder of a classification: its files and their formats."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from fewshot.features.images.pictures import name_of
from fewshot.features.support_query import SupportQuery
from fewshot.few_shot_classifier.classification import UNKNOWN, Classification, ClassifySettings
from fewshot.result_folders import SUMMARY, csv_text

__all__ = [
    "FORMAT_VERSION",
    "KIND",
    "OWN_FILES",
    "PREDICTIONS",
    "REPORT",
    "Report",
    "predictions_csv",
    "unknown_words",
]

KIND = "fewshot classification"
FORMAT_VERSION = 1
PREDICTIONS, REPORT = "predictions.csv", "report.html"
OWN_FILES = (PREDICTIONS, SUMMARY, REPORT)


class Report(NamedTuple):
    """The material of the files: names of the two sides, their rows, the settings, and the answers."""

    names: tuple[str, str]
    inputs: SupportQuery
    settings: ClassifySettings
    result: Classification


def predictions_csv(report: Report) -> str:
    """Return the table of queries: ``class`` is the answer, ``best_class`` the most likely one if it is unknown."""
    answers = report.result.answers
    names, query = answers.class_names, report.inputs.query
    best = [names[label] for label in answers.best.tolist()]
    is_unknown = answers.is_unknown.tolist()
    return csv_text(
        {
            "file": [name_of(query, row) for row in range(len(best))],
            "class": [UNKNOWN if unknown else name for name, unknown in zip(best, is_unknown, strict=True)],
            "unknown": ["yes" if unknown else "no" for unknown in is_unknown],
            "best_class": best,
            "probability": _numbers(answers.probability),
            "second": [names[label] for label in answers.second.tolist()],
            "second_probability": _numbers(answers.second_probability),
            "p_value": _numbers(answers.p_value),
        }
    )


def _numbers(values: Tensor) -> list[str]:
    return [f"{value:.6g}" for value in values.tolist()]


def unknown_words(report: Report) -> str:
    """Return how queries of no class are recognised, in words."""
    share = report.settings.reject
    if not share:
        return "not asked for: each image has its most likely class"
    if report.result.can_be_unknown:
        return f"about {100 * share:.3g} % of images of these classes are called so by mistake (--reject {share:g})"
    least = math.ceil(1000 * report.result.smallest_reject - 1e-3) / 1000
    other = f"more, or --reject {least:g} or more" if least < 1 else "two or more of a class"
    return f"not possible at --reject {share:g} with so few labelled images: give {other}"
