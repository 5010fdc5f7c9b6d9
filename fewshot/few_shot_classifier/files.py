"""The folder of a classification: its files and their formats."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from fewshot.evaluation.fitted_methods import FittedMethod
from fewshot.features.images.pictures import name_of
from fewshot.features.support_query import SupportQuery
from fewshot.few_shot_classifier.classification import UNKNOWN, AnsweredClass, Classification, ClassifySettings
from fewshot.storage.result_folders import csv_text

__all__ = [
    "FORMAT_VERSION",
    "KIND",
    "PREDICTIONS",
    "Report",
    "classification_summary",
    "predictions_csv",
]

KIND = "fewshot classification"
FORMAT_VERSION = 1
PREDICTIONS = "predictions.csv"


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


def classification_summary(report: Report, out: str, tuned: FittedMethod | None) -> dict[str, Any]:
    """Return a classification as JSON values.

    Parameters
    ----------
    report : Report
    out : str
        The folder of the results.
    tuned : FittedMethod, optional
        The method, if it was tuned.
    """
    inputs, result = report.inputs, report.result
    source = inputs.support.source
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "out": out,
        "method": report.settings.method,
        "method_settings": result.method_settings,
        "is_transductive": result.is_transductive,
        "extractor": {"key": source.get("extractor_key"), "spec": source.get("extractor")},
        "n_support": len(inputs.support.labels),
        "n_queries": len(inputs.query.labels),
        "n_classes": inputs.support.n_classes,
        "n_unknown": int(result.answers.is_unknown.sum()),
        "reject": report.settings.reject,
        "can_be_unknown": result.can_be_unknown,
        "smallest_reject": result.smallest_reject,
        "classes": [_class(row, report) for row in result.classes],
        "left_out": {side: left_out.as_document() for side, left_out in inputs.left_out.items()},
        "skipped": [image._asdict() for image in inputs.skipped],
        "duplicates": [
            {"query": pair.query, "support": pair.support, "class": pair.class_name} for pair in inputs.duplicates
        ],
        "tuned": None if tuned is None else tuned.describe(inputs.support.class_names),
    }


def _class(row: AnsweredClass, report: Report) -> dict[str, Any]:
    least = row.least_sure
    probability = None if least is None else float(report.result.answers.probability[least])
    return row._asdict() | {
        "least_sure": None
        if least is None
        else {"file": name_of(report.inputs.query, least), "probability": probability}
    }
