"""One query set answered from a support set, with an answer for queries of no class, and a summary of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.checks import SettingError
from fewshot.evaluation.fitted_methods import check_columns
from fewshot.features import FeatureSet
from fewshot.few_shot_classifier.estimator import DEFAULT_METHOD, FewShotClassifier
from fewshot.registry.episodic import build_method
from fewshot.rejection import is_rejected, smallest_share

__all__ = ["UNKNOWN", "AnsweredClass", "Answers", "Classification", "ClassifySettings", "classify"]

UNKNOWN = "unknown"
"""The answer for queries of no class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifySettings:
    """The settings of `classify`.

    Parameters
    ----------
    method : str
        ``name`` or ``name:option=value,...`` as `fewshot.build_method` takes it.
    reject : float
        In [0, 1): a query is answered ``"unknown"`` where it is farther from every class than all but about this share
        of items of these classes are. 0: never.

    Raises
    ------
    ValueError
        If the method is not known, or ``reject`` is out of range.
    """

    method: str = DEFAULT_METHOD
    reject: float = 0.05

    def __post_init__(self) -> None:
        build_method(self.method)
        if not 0 <= self.reject < 1:
            raise SettingError("{reject} must lie in [0, 1), got {0}", self.reject)


class Answers(NamedTuple):
    """The answers, query by query, on the CPU.

    Attributes
    ----------
    class_names : tuple of str
    best, second : Tensor (n,), int64
        The two most likely classes.
    probability, second_probability : Tensor (n,)
    p_value : Tensor (n,)
        The share of items of known classes that lie as far from every class or farther, in (0, 1].
    is_unknown : Tensor (n,), bool
    """

    class_names: tuple[str, ...]
    best: Tensor
    second: Tensor
    probability: Tensor
    second_probability: Tensor
    p_value: Tensor
    is_unknown: Tensor


class AnsweredClass(NamedTuple):
    """The queries that were given one class; unknown ones are of none.

    Attributes
    ----------
    name : str
    n_support, n_queries : int
    mean_probability : float, or None
        None without queries.
    least_sure : int, or None
        The query of the lowest probability.
    """

    name: str
    n_support: int
    n_queries: int
    mean_probability: float | None
    least_sure: int | None


class Classification(NamedTuple):
    """The result of `classify`.

    Attributes
    ----------
    answers : Answers
    classes : list of AnsweredClass
        In the order of the support's names.
    method_settings : str
        The method and its settings in words.
    is_transductive : bool
        Whether the queries were answered together.
    can_be_unknown : bool
        Whether ``reject`` is large enough for the number of support items.
    smallest_reject : float
        The least share at which a query can be unknown.
    """

    answers: Answers
    classes: list[AnsweredClass]
    method_settings: str
    is_transductive: bool
    can_be_unknown: bool
    smallest_reject: float


def classify(support: FeatureSet, query: FeatureSet, settings: ClassifySettings | None = None) -> Classification:
    """Answer queries with the classes of a support set.

    Parameters
    ----------
    support : FeatureSet
        At least two classes. The queries are answered on its device.
    query : FeatureSet
        Its labels are not used.
    settings : ClassifySettings, optional
        Default: those of ``fewshot classify``.

    Raises
    ------
    SettingError
        If queries may be unknown and a class has that name.
    ValueError
        If the method refuses the support.

    Examples
    --------
    >>> support = FeatureSet.from_arrays([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0]], ["crow", "crow", "wren"])
    >>> query = FeatureSet.from_arrays([[0.2, 0.9], [0.8, 0.1]], [-1, -1])
    >>> found = classify(support, query, ClassifySettings(method="simpleshot", reject=0.0))
    >>> [support.class_names[label] for label in found.answers.best.tolist()]
    ['crow', 'wren']
    """
    settings = settings or ClassifySettings()
    if settings.reject and UNKNOWN in support.class_names:
        raise SettingError("a class is named {0!r}, as are images of no class: rename it, or give {reject} 0", UNKNOWN)
    check_columns({settings.method: build_method(settings.method)}, support)
    model = FewShotClassifier(settings.method).fit(support.features, support.labels)
    answers = _answers(model, support.class_names, query.features, settings.reject)
    smallest = smallest_share(model.calibration_scores_)
    return Classification(
        answers=answers,
        classes=_classes(support, answers),
        method_settings=model.method_.describe(),
        is_transductive=model.is_transductive_,
        can_be_unknown=bool(is_rejected(smallest, settings.reject)),
        smallest_reject=float(smallest),
    )


def _answers(model: FewShotClassifier, names: tuple[str, ...], features: Tensor, reject: float) -> Answers:
    """Answer queries; those of no class apart from the others, which they must not sway."""
    p_values = model.known_p_values(features)
    is_unknown = is_rejected(p_values, reject)
    probabilities = features.new_empty((len(features), len(names)), dtype=model.dtype_)
    for rows in (torch.nonzero(part)[:, 0] for part in (is_unknown, ~is_unknown)):
        if len(rows):
            probabilities[rows] = model.predict_proba(features[rows])
    top = probabilities.cpu().topk(2)
    best, second = top.indices.unbind(-1)
    probability, second_probability = top.values.unbind(-1)
    return Answers(names, best, second, probability, second_probability, p_values.cpu(), is_unknown.cpu())


def _classes(support: FeatureSet, answers: Answers) -> list[AnsweredClass]:
    kept = torch.where(answers.is_unknown, -1, answers.best)
    counts = support.class_counts().tolist()
    return [
        AnsweredClass(name, counts[label], *_queries_of(answers, torch.nonzero(kept == label)[:, 0]))
        for label, name in enumerate(answers.class_names)
    ]


def _queries_of(answers: Answers, rows: Tensor) -> tuple[int, float | None, int | None]:
    if not len(rows):
        return 0, None, None
    probability = answers.probability[rows]
    return len(rows), float(probability.mean()), int(rows[probability.argmin()])
