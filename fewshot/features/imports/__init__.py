"""Features that other programs made: pickles (no code runs), tensors, tables, folders of Hugging Face datasets."""

from __future__ import annotations

from fewshot.features.imports.formats import FORMATS, import_features
from fewshot.features.imports.joining import join_cosines, join_text

__all__ = ["FORMATS", "import_features", "join_cosines", "join_text"]
