"""Small pictures of the rows of a pool, read under a progress bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fewshot.features import FeatureSet
from fewshot.features.images.pictures import Picture, name_of, thumbnails

from . import output
from .words import counted

__all__ = ["Pictures", "read_pictures"]


class Pictures(NamedTuple):
    """Small pictures by row, None where the features do not say what their images are; and warnings about them."""

    by_row: Mapping[int, Picture] | None
    warnings: list[str]


def read_pictures(pool: FeatureSet, rows: Sequence[int], *, side: int, progress: output.Progress) -> Pictures:
    """Return small pictures of some rows, under the stage of the progress bar that has begun."""
    try:
        found = thumbnails(pool, rows, side=side, progress=lambda n_done: progress.update(n_done, ""))
    except ImportError:
        return Pictures(None, ['the report has no pictures without pillow: pip install "fewshot[images]"'])
    failed = [row for row, picture in (found or {}).items() if picture is None]
    if not failed:
        return Pictures(found, [])
    count = counted(len(failed), "picture", "pictures")
    return Pictures(
        found, [f"{count} of the report could not be read, such as {name_of(pool, failed[0])}: were images moved?"]
    )
