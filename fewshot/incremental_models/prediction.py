"""Classes of rows by an incremental classifier on disk, with an answer for rows of no class, and how right they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.checks import SettingError
from fewshot.features import FeatureSet
from fewshot.incremental import IncrementalClassifier
from fewshot.incremental_models.rows import check_fits, read_rows
from fewshot.models import load_classifier

__all__ = ["UNKNOWN", "PredictSettings", "Predictions", "predict"]

UNKNOWN = "unknown"
"""The answer for rows of no class."""
# Rows whose scores are held at a time.
_CHUNK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictSettings:
    """The settings of `predict`.

    Parameters
    ----------
    reject : float, optional
        In (0, 1): a row is answered ``"unknown"`` where it scores lower than this share of the base session's items,
        held out, did. Default: never.

    Raises
    ------
    SettingError
        If ``reject`` is out of range.
    """

    reject: float | None = None

    def __post_init__(self) -> None:
        if self.reject is not None and not 0 < self.reject < 1:
            raise SettingError("{reject} must lie in (0, 1), got {0}", self.reject)


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """The result of `predict`, row by row.

    Attributes
    ----------
    pool : FeatureSet
        The rows.
    classifier : IncrementalClassifier
    names : tuple of str
        The answers: classes, or ``"unknown"``.
    probability, score : Tensor (n,)
        Of the most likely class: the softmax over the classes that are known, and what it was made of.
    is_rejecting : bool
        Whether rows could be answered ``"unknown"``.
    """

    pool: FeatureSet
    classifier: IncrementalClassifier
    names: tuple[str, ...]
    probability: Tensor
    score: Tensor
    is_rejecting: bool

    @property
    def of_known_classes(self) -> Hits:
        """Labelled rows of classes that are known, and how many of them were answered with their class."""
        rows = [(name, truth) for name, truth in self._labelled() if truth in self._known()]
        return Hits(sum(name == truth for name, truth in rows), len(rows))

    @property
    def of_other_classes(self) -> Hits:
        """Labelled rows of other classes, and how many of them were answered ``"unknown"``."""
        names = [name for name, truth in self._labelled() if truth not in self._known()]
        return Hits(names.count(UNKNOWN), len(names))

    def _labelled(self) -> list[tuple[str, str]]:
        labels, classes = self.pool.labels.tolist(), self.pool.class_names
        return [(name, classes[label]) for name, label in zip(self.names, labels, strict=True) if label >= 0]

    def _known(self) -> set[str]:
        return set(_class_names(self.classifier))


class Hits(NamedTuple):
    """Right answers.

    Attributes
    ----------
    n_right, n_rows : int
    """

    n_right: int
    n_rows: int

    @property
    def share(self) -> float | None:
        """Right answers of all, in [0, 1]; None without rows."""
        return self.n_right / self.n_rows if self.n_rows else None


def predict(
    model: str | os.PathLike[str],
    rows: FeatureSet | Callable[[], FeatureSet],
    settings: PredictSettings | None = None,
    *,
    rows_name: str = "the pool",
) -> Predictions:
    """Name the class of each row by the classifier of a file.

    Parameters
    ----------
    model : str or path
        The .safetensors file of `learn`.
    rows : FeatureSet or callable
        With or without labels; a callable reads them once the file was found to be in order.
    settings : PredictSettings, optional
        Default: those of ``fewshot predict``.
    rows_name : str
        For messages, such as the file of the rows.

    Returns
    -------
    Predictions

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    SettingError
        If rows may be unknown and a class has that name.
    ValueError
        If the file is no classifier, the rows are of another extractor or width than it has learned, or rows may be
        unknown and its rejection was not calibrated.
    """
    settings, path = settings or PredictSettings(), os.fspath(model)
    classifier, source = load_classifier(path)
    pool = read_rows(rows)
    check_fits(classifier, source, pool, (path, rows_name))
    classes = _class_names(classifier)
    threshold = None if settings.reject is None else classifier.rejection_threshold(settings.reject)
    if threshold is not None and UNKNOWN in classes:
        raise SettingError("{0} knows a class named {1!r}: rename it to use {reject}", path, UNKNOWN)
    positions, probability, score = _best(classifier, pool.features)
    names = _named(classes, positions, score, threshold)
    return Predictions(pool, classifier, names, probability, score, is_rejecting=threshold is not None)


def _class_names(classifier: IncrementalClassifier) -> list[str]:
    return [str(name) for name in classifier.classes_.tolist()]


def _best(classifier: IncrementalClassifier, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best class's position, its probability and its score for each row, each scored once."""
    parts = []
    for rows in torch.split(features, _CHUNK):
        scores = classifier.class_scores(rows)
        highest, positions = scores.max(1)
        probabilities = classifier.probabilities_of(scores).gather(1, positions[:, None])[:, 0]
        parts.append((positions, probabilities, highest))
    positions, probabilities, highest = (torch.cat(column) for column in zip(*parts, strict=True))
    return positions, probabilities, highest


def _named(classes: Sequence[str], positions: Tensor, score: Tensor, threshold: float | None) -> tuple[str, ...]:
    """Return the names at positions (n,), where a score (n,) is below the threshold "unknown"."""
    names = [classes[position] for position in positions.tolist()]
    if threshold is None:
        return tuple(names)
    return tuple(name if value >= threshold else UNKNOWN for name, value in zip(names, score.tolist(), strict=True))
