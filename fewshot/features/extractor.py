"""Moved: see `fewshot.features.frozen` (this file goes once nobody imports it)."""

from fewshot.features.frozen import Built, Extractor, weights_hash

__all__ = ["Built", "Extractor", "weights_hash"]
