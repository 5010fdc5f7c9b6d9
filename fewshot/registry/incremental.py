"""INCREMENTAL_METHODS: name → what the command line can learn new classes with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from fewshot.checks import check_choice

if TYPE_CHECKING:
    from fewshot.incremental.estimator import IncrementalClassifier

__all__ = ["INCREMENTAL_METHODS", "IncrementalEntry", "build_classifier", "classifier_options"]

_NOTHING: Mapping[str, object] = MappingProxyType({})


class IncrementalEntry(NamedTuple):
    """A classifier that the command line knows.

    Attributes
    ----------
    class_name : str
        In `fewshot.incremental`.
    summary : str
    reference : str
        A key of README's reference list.
    settings : mapping
        What differs from the class's defaults.
    """

    class_name: str
    summary: str
    reference: str
    settings: Mapping[str, object] = _NOTHING


INCREMENTAL_METHODS: dict[str, IncrementalEntry] = {
    "ncm": IncrementalEntry("NearestClassMean", "nearest class mean, cosine", "SimpleCIL"),
    "ncm-euclidean": IncrementalEntry(
        "NearestClassMean", "nearest class mean, Euclidean distance", "Snell et al. 2017", {"metric": "euclidean"}
    ),
    "ncm-centred": IncrementalEntry(
        "NearestClassMean", "cosines about the base session's mean", "Wang et al. 2019", {"center": "base"}
    ),
    "ncm-debias": IncrementalEntry(
        "NearestClassMean", "lengths freed of what few shots add to them", "ours", {"shot_debias": True}
    ),
    "teen": IncrementalEntry("TEEN", "prototypes pulled towards similar base classes", "TEEN"),
    "teen-auto": IncrementalEntry(
        "TEEN", "the same, how far and how long estimated from the base session", "ours", {"shift_weight": "auto"}
    ),
    "lda": IncrementalEntry("StreamingLDA", "linear discriminant analysis, exact in a stream", "SLDA"),
    "fecam": IncrementalEntry("FeCAM", "Mahalanobis distance, a covariance for each class", "FECAM"),
    "fecam-calibrated": IncrementalEntry(
        "FeCAM", "the same, means and covariances helped by similar base classes", "CFECAM", {"calibrate": True}
    ),
    "distribution-calibration": IncrementalEntry(
        "DistributionCalibration", "logistic regression on shots and samples of borrowed Gaussians", "DC"
    ),
    "ridge": IncrementalEntry("RecursiveRidge", "analytic ridge regression on one-hot labels", "ACIL"),
    "ridge-rbf": IncrementalEntry(
        "RecursiveRidge",
        "the same on kernel features, classes balanced",
        "GKEAL",
        {"expansion": "rbf", "balanced": True},
    ),
    "ranpac": IncrementalEntry("RanPAC", "ridge regression on random projections, the paper's linear head", "RANPAC"),
    "ranpac-cosine": IncrementalEntry(
        "RanPAC", "the same scored by cosine, as others ship it", "RANPAC", {"head": "cosine"}
    ),
}


def classifier_options(name: str) -> dict[str, object]:
    """Return the options of a method that can be given as text, with their defaults."""
    entry = INCREMENTAL_METHODS[name]
    return {
        option: entry.settings.get(option, parameter.default)
        for option, parameter in inspect.signature(_class(entry)).parameters.items()
    }


def build_classifier(text: str) -> IncrementalClassifier:
    """Build a classifier from words: ``name`` or ``name:option=value,option=value``.

    Raises
    ------
    ValueError
        If the name, an option or a value is not known; the message names the known ones and the nearest.

    Examples
    --------
    >>> build_classifier("teen:shift_weight=0.1")
    TEEN(shift_weight=0.1)
    """
    name, _, words = text.partition(":")
    check_choice("method", name, INCREMENTAL_METHODS)
    entry = INCREMENTAL_METHODS[name]
    known = inspect.signature(_class(entry)).parameters
    options = dict(entry.settings)
    for word in filter(None, words.split(",")):
        option, _, value = word.partition("=")
        check_choice(f"option of {name}", option, known)
        options[option] = _parsed(f"{name}:{option}", value, known[option].annotation)
    classifier: IncrementalClassifier = _class(entry)(**options)
    return classifier


def _class(entry: IncrementalEntry) -> Any:
    return getattr(import_module("fewshot.incremental"), entry.class_name)


def _parsed(what: str, value: str, annotation: str) -> object:
    """Read a value as the first kind of an annotation such as ``float | str`` that fits."""
    kinds = [kind.strip() for kind in annotation.split("|")]
    if annotation == "tuple[float, float]":
        first, plus, second = value.partition("+")
        if not plus:
            raise ValueError(f"{what} must be two numbers, such as 1+0, got {value!r}")
        return _parsed(what, first, "float"), _parsed(what, second, "float")
    if "bool" in kinds:
        return check_choice(what, value, ("true", "false")) == "true"
    for kind, read in (("None", _none), ("int", int), ("float", float), ("str", str)):
        if kind in kinds:
            try:
                return read(value)
            except ValueError:
                continue
    raise ValueError(f"{what} must be {' or '.join(kinds)}, got {value!r}")


def _none(value: str) -> None:
    if value != "none":
        raise ValueError(value)
