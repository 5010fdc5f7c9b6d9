"""The frozen extractor layer: images to features, features to files and back; the only code that sees images."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fewshot.features.feature_set import FeatureSet, check_same_extractor
from fewshot.features.readers import load_features

if TYPE_CHECKING:
    from fewshot.features.extraction.in_memory import extract
    from fewshot.features.extraction.to_store import ExtractSettings, extract_store
    from fewshot.features.families import extractor
    from fewshot.features.frozen import Extractor
    from fewshot.features.images.preprocess import Preprocess
    from fewshot.features.store.reading import FeatureStore

__all__ = [
    "ExtractSettings",
    "Extractor",
    "FeatureSet",
    "FeatureStore",
    "Preprocess",
    "check_same_extractor",
    "extract",
    "extract_store",
    "extractor",
    "load_features",
]

# What only extraction needs loads on first use.
_LAZY = {
    "ExtractSettings": "fewshot.features.extraction.to_store",
    "Extractor": "fewshot.features.frozen",
    "FeatureStore": "fewshot.features.store.reading",
    "Preprocess": "fewshot.features.images.preprocess",
    "extract": "fewshot.features.extraction.in_memory",
    "extract_store": "fewshot.features.extraction.to_store",
    "extractor": "fewshot.features.families",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
