"""The images of a folder, of archives or of a list of files, in memory: for what looks at all of them in any order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from fewshot.features.images.sources import ImageRecord, find_images

__all__ = ["ImageList", "Images", "count_images", "list_images"]

Images: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"


class ImageList(NamedTuple):
    """The images there are, and the folder that their ids are relative to."""

    root: str
    records: list[ImageRecord]


def list_images(images: Images) -> ImageList:
    """List images without their labels.

    Parameters
    ----------
    images
        A folder or tar archives, as `find_images` takes them, or a list of files.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If there are no images.
    """
    if isinstance(images, (str, os.PathLike)):
        return ImageList(os.fspath(images), list(find_images(images, "none")))
    if not images:
        raise ValueError("no images: the list of files is empty")
    return ImageList("", [ImageRecord(os.fspath(path)) for path in images])


def count_images(images: Images) -> int:
    """Return how many images there are, with the errors of `list_images`."""
    return len(list_images(images).records)
