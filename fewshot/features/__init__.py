"""The frozen extractor layer: labelled features, and the only code that reads them from files."""

from fewshot.features.feature_set import FeatureSet
from fewshot.features.readers import load_features

__all__ = ["FeatureSet", "load_features"]
