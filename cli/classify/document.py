"""The summary of a classification as a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewshot.evaluation.fitted_methods import FittedMethod
from fewshot.features.images.pictures import name_of
from fewshot.features.support_query import SupportQuery
from fewshot.few_shot_classifier.classification import AnsweredClass

from ..shared.tuned_option import tuned_facts
from ..shared.words import counted
from .results import FORMAT_VERSION, KIND, Report

__all__ = ["classification_document", "input_warnings"]

_N_NAMED = 3


def classification_document(report: Report, out: str, tuned: FittedMethod | None) -> dict[str, Any]:
    """Return the summary, less its head, settings and warnings."""
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
        "skipped": [image._asdict() for image in inputs.skipped],
        "duplicates": [
            {"query": pair.query, "support": pair.support, "class": pair.class_name} for pair in inputs.duplicates
        ],
        "tuned": None if tuned is None else tuned_facts(tuned, inputs.support.class_names),
    }


def _class(row: AnsweredClass, report: Report) -> dict[str, Any]:
    least = row.least_sure
    probability = None if least is None else float(report.result.answers.probability[least])
    return row._asdict() | {
        "least_sure": None
        if least is None
        else {"file": name_of(report.inputs.query, least), "probability": probability}
    }


def input_warnings(inputs: SupportQuery) -> list[str]:
    """Return warnings about images that were skipped, and about queries that are labelled too."""
    found = []
    if inputs.skipped:
        found.append(_named("could not be used", [image.reason for image in inputs.skipped]))
    if inputs.duplicates:
        same = [f"{pair.query} is {pair.support}" for pair in inputs.duplicates]
        found.append(_named("to name are labelled ones too", same))
    return found


def _named(remark: str, texts: Sequence[str]) -> str:
    more = "; summary.json lists all" if len(texts) > _N_NAMED else ""
    return f"{counted(len(texts), 'image', 'images')} {remark}: {'; '.join(texts[:_N_NAMED])}{more}"
