"""Classes of queries from a few labelled items: `FewShotClassifier`, and the experiment of ``fewshot classify``.

`classify` answers one feature set from another, under `ClassifySettings`, and describes the answers class by class.
`fewshot.features.support_query` reads the two sets from folders of images or files of features.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fewshot.few_shot_classifier.estimator import DEFAULT_METHOD, FewShotClassifier

if TYPE_CHECKING:
    from fewshot.few_shot_classifier.classification import (
        UNKNOWN,
        AnsweredClass,
        Answers,
        Classification,
        ClassifySettings,
        classify,
    )

__all__ = [
    "DEFAULT_METHOD",
    "UNKNOWN",
    "AnsweredClass",
    "Answers",
    "Classification",
    "ClassifySettings",
    "FewShotClassifier",
    "classify",
]

# What sees feature sets loads on first use.
_LAZY = ("UNKNOWN", "AnsweredClass", "Answers", "Classification", "ClassifySettings", "classify")


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module("fewshot.few_shot_classifier.classification"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
