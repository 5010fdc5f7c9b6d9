"""Support and query sets from folders of images or from files of features: `read_support_query`."""

from __future__ import annotations

from fewshot.features.support_query.images import check_apart, list_query, list_support
from fewshot.features.support_query.inputs import (
    DEFAULT_EXTRACTOR,
    DuplicateQuery,
    SkippedImage,
    SupportQuery,
    SupportQuerySources,
    read_support_query,
)

__all__ = [
    "DEFAULT_EXTRACTOR",
    "DuplicateQuery",
    "SkippedImage",
    "SupportQuery",
    "SupportQuerySources",
    "check_apart",
    "list_query",
    "list_support",
    "read_support_query",
]
