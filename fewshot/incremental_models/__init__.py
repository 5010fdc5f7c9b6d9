"""Incremental classifiers on disk: ``fewshot learn``, ``predict`` and ``forget`` as a call each.

- `learn`: teach the classifier of a file classes, or make it; settings `LearnSettings`, result `Learned`.
- `predict`: name the class of each row; settings `PredictSettings`, result `Predictions`.
- `forget`: take classes out of the file.
- `found_pool`: rows of classes that ``fewshot discover`` found, to learn from; which ones: `FoundClasses`.
"""

from fewshot.incremental_models.forgetting import forget
from fewshot.incremental_models.found_classes import FoundClasses, found_pool
from fewshot.incremental_models.learning import DEFAULT_METHOD, Learned, LearnSettings, learn
from fewshot.incremental_models.prediction import UNKNOWN, Predictions, PredictSettings, predict

__all__ = [
    "DEFAULT_METHOD",
    "UNKNOWN",
    "FoundClasses",
    "LearnSettings",
    "Learned",
    "PredictSettings",
    "Predictions",
    "forget",
    "found_pool",
    "learn",
    "predict",
]
