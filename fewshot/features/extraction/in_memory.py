"""Features of a few images at once, in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot.features.feature_set import FeatureSet, LabelsLike
from fewshot.features.frozen import Extractor
from fewshot.features.images.decode import UnreadableImage, decode
from fewshot.features.images.left_out import warn_of_left_out
from fewshot.features.images.listing import find_images, read_bytes
from fewshot.features.images.preprocess import Preprocess
from fewshot.features.images.rgb import FULL_RANGE, NARROW, BitRange, is_gray, stated_range, to_rgb, warn_of_narrow

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["extract"]

Pixels: TypeAlias = npt.NDArray[np.uint8] | Tensor
Images: TypeAlias = "str | os.PathLike[str] | Pixels | Sequence[str | os.PathLike[str] | Image.Image | Pixels]"


def extract(
    extractor: Extractor, images: Images, *, labels: LabelsLike | None = None, batch_size: int = 64
) -> FeatureSet:
    """Extract the features of images that fit in memory; for more, `extract_store`.

    Parameters
    ----------
    extractor
        Frozen network with its preprocessing.
    images
        A folder (a folder per class, or unlabelled); or a sequence of files, PIL images and uint8 arrays (height,
        width, 3) or (height, width); or one array (n, height, width, 3) or (n, height, width).
    labels
        (n,) of any hashable kind, -1 = unlabelled; None takes the folder's classes, or none.
    batch_size
        Images per call of the network.

    Returns
    -------
    FeatureSet
        On the CPU, float32, with files as ids if there are any.

    Raises
    ------
    UnreadableImage
        If a file gives no pixels; the message names it.
    ValueError
        If there are no images, labels do not match, or a feature is not finite.
    TypeError
        If an array is not uint8.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from fewshot.features import Preprocess, extract, extractor
    >>> pixels = extractor(torch.nn.Flatten(), preprocess=Preprocess(size=(2, 2)))
    >>> extract(pixels, np.zeros((3, 5, 4, 3), dtype=np.uint8), labels=["crow", "wren", "crow"])
    FeatureSet(3 x 12 torch.float32, 2 classes)
    """
    listed = _listed(images)
    if not listed.items:
        raise ValueError("images must name at least one image, got none")
    extractor.expect(len(listed.items))
    starts = range(0, len(listed.items), batch_size)
    batches = (listed.items[start : start + batch_size] for start in starts)
    features = [
        extractor(torch.stack([_prepared(item, extractor.preprocess) for item in batch])).cpu() for batch in batches
    ]
    source = {"extractor_key": extractor.key, "extractor": extractor.spec}
    known = listed.labels if labels is None else labels
    return replace(FeatureSet.from_arrays(torch.cat(features), known, source=source), ids=listed.ids)


class _Listed(NamedTuple):
    """Items to prepare, their labels, and their names if they have some."""

    items: Sequence[Any]
    labels: LabelsLike
    ids: tuple[str, ...] | None


def _listed(images: Images) -> _Listed:
    if isinstance(images, (str, os.PathLike)):
        records = list(find_images(images))
        warn_of_left_out(images)
        labels = [-1 if record.label is None else record.label for record in records]
        return _Listed([(images, record) for record in records], labels, tuple(record.id for record in records))
    items = list(images)
    files = [os.fspath(item) for item in items if isinstance(item, (str, os.PathLike))]
    return _Listed(items, [-1] * len(items), tuple(files) if len(files) == len(items) else None)


def _prepared(item: Any, preprocess: Preprocess) -> Tensor:
    """Return an image as the network takes it, uint8."""
    if isinstance(item, tuple):
        root, record = item
        return preprocess.apply(_decoded(record.id, read_bytes(root, record), preprocess.bit_range))
    if isinstance(item, (str, os.PathLike)):
        return preprocess.apply(_decoded(os.fspath(item), os.fspath(item), preprocess.bit_range))
    if isinstance(item, (np.ndarray, Tensor)):
        return preprocess.apply_array(item)
    if is_gray(item):  # which convert() would cut off at 255
        return preprocess.apply(to_rgb(item, True, preprocess.bit_range or stated_range(item) or FULL_RANGE))
    return preprocess.apply(item.convert("RGB"))


def _decoded(name: str, source: bytes | str, bit_range: BitRange | None) -> Image.Image:
    try:
        image, notes = decode(source, bit_range=bit_range)
        warn_of_narrow(notes.count(NARROW))
        return image
    except UnreadableImage as error:
        raise UnreadableImage(error.code, f"{name}: {error.text}") from error
