"""Category discovery: a pool where some rows are labelled and the rest are of known and unknown classes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot.discovery.category_discovery import CategoryDiscovery
    from fewshot.discovery.estimator import CategoryDiscoverer
    from fewshot.discovery.pim import PIM
    from fewshot.discovery.semi_supervised_gaussian_mixture import SemiSupervisedGaussianMixture
    from fewshot.discovery.semi_supervised_kmeans import SemiSupervisedKMeans
    from fewshot.discovery.ward import WardDiscovery

__all__ = [
    "PIM",
    "CategoryDiscoverer",
    "CategoryDiscovery",
    "SemiSupervisedGaussianMixture",
    "SemiSupervisedKMeans",
    "WardDiscovery",
]

# Estimators need scikit-learn, which loads on first use.
_LAZY = {
    "PIM": "fewshot.discovery.pim",
    "CategoryDiscoverer": "fewshot.discovery.estimator",
    "CategoryDiscovery": "fewshot.discovery.category_discovery",
    "SemiSupervisedGaussianMixture": "fewshot.discovery.semi_supervised_gaussian_mixture",
    "SemiSupervisedKMeans": "fewshot.discovery.semi_supervised_kmeans",
    "WardDiscovery": "fewshot.discovery.ward",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fewshot.discovery' has no attribute {name!r}")
