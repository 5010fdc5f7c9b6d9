"""Classifiers that gain classes a few items at a time, without forgetting the old ones.

- Estimators: `NearestClassMean`, `TEEN`, `StreamingLDA`, `FeCAM`, `DistributionCalibration`, `RecursiveRidge`,
  `RanPAC`, all of them an `IncrementalClassifier`.
- Steps on prototypes: `calibrate_prototypes` of TEEN; `fit_base_prior` and `posterior_prototypes`, without a setting.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot.incremental.calibration import calibrate_prototypes, fit_base_prior, posterior_prototypes
    from fewshot.incremental.distribution_calibration import DistributionCalibration
    from fewshot.incremental.estimator import IncrementalClassifier
    from fewshot.incremental.fecam import FeCAM
    from fewshot.incremental.lda import StreamingLDA
    from fewshot.incremental.ncm import NearestClassMean
    from fewshot.incremental.ranpac import RanPAC
    from fewshot.incremental.ridge import RecursiveRidge
    from fewshot.incremental.teen import TEEN

__all__ = [
    "TEEN",
    "DistributionCalibration",
    "FeCAM",
    "IncrementalClassifier",
    "NearestClassMean",
    "RanPAC",
    "RecursiveRidge",
    "StreamingLDA",
    "calibrate_prototypes",
    "fit_base_prior",
    "posterior_prototypes",
]

# Estimators need scikit-learn, which loads on first use.
_LAZY = {
    "DistributionCalibration": "fewshot.incremental.distribution_calibration",
    "FeCAM": "fewshot.incremental.fecam",
    "IncrementalClassifier": "fewshot.incremental.estimator",
    "NearestClassMean": "fewshot.incremental.ncm",
    "RanPAC": "fewshot.incremental.ranpac",
    "RecursiveRidge": "fewshot.incremental.ridge",
    "StreamingLDA": "fewshot.incremental.lda",
    "TEEN": "fewshot.incremental.teen",
    "calibrate_prototypes": "fewshot.incremental.calibration",
    "fit_base_prior": "fewshot.incremental.calibration",
    "posterior_prototypes": "fewshot.incremental.calibration",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fewshot.incremental' has no attribute {name!r}")
