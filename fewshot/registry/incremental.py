"""INCREMENTAL_METHODS: incremental classifiers by the names of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot.registry.entry import Entry, build_entry

if TYPE_CHECKING:
    from fewshot.incremental.estimator import IncrementalClassifier

__all__ = ["INCREMENTAL_METHODS", "build_classifier"]


def _entry(class_name: str, summary: str, reference: str, **settings: object) -> Entry[IncrementalClassifier]:
    return Entry(f"fewshot.incremental:{class_name}", summary, reference, settings)


INCREMENTAL_METHODS: dict[str, Entry[IncrementalClassifier]] = {
    "ncm": _entry("NearestClassMean", "nearest class mean, cosine", "SimpleCIL"),
    "ncm-euclidean": _entry(
        "NearestClassMean", "nearest class mean, Euclidean distance", "Snell et al. 2017", metric="euclidean"
    ),
    "ncm-centred": _entry(
        "NearestClassMean", "cosines about the base session's mean", "Wang et al. 2019", center="base"
    ),
    "ncm-debias": _entry("NearestClassMean", "lengths freed of what few shots add to them", "ours", shot_debias=True),
    "teen": _entry("TEEN", "prototypes pulled towards similar base classes", "TEEN"),
    "teen-auto": _entry(
        "TEEN", "the same, how far and how long estimated from the base session", "ours", shift_weight="auto"
    ),
    "lda": _entry("StreamingLDA", "linear discriminant analysis, exact in a stream", "SLDA"),
    "fecam": _entry("FeCAM", "Mahalanobis distance, a covariance for each class", "FECAM"),
    "fecam-calibrated": _entry(
        "FeCAM", "the same, means and covariances helped by similar base classes", "CFECAM", calibrate=True
    ),
    "distribution-calibration": _entry(
        "DistributionCalibration", "logistic regression on shots and samples of borrowed Gaussians", "DC"
    ),
    "ridge": _entry("RecursiveRidge", "analytic ridge regression on one-hot labels", "ACIL"),
    "ridge-rbf": _entry(
        "RecursiveRidge", "the same on kernel features, classes balanced", "GKEAL", expansion="rbf", balanced=True
    ),
    "ranpac": _entry("RanPAC", "ridge regression on random projections, the paper's linear head", "RANPAC"),
    "ranpac-cosine": _entry("RanPAC", "the same scored by cosine, as others ship it", "RANPAC", head="cosine"),
}


def build_classifier(text: str) -> IncrementalClassifier:
    """Build an incremental classifier from ``name`` or ``name:option=value,option=value``.

    Raises
    ------
    ValueError
        If the name, an option or a value is not known; the message names the known ones and the nearest.

    Examples
    --------
    >>> build_classifier("teen:shift_weight=0.1")
    TEEN(shift_weight=0.1)
    """
    return build_entry(INCREMENTAL_METHODS, text)
