"""Mean and standard deviation of the pixels of a set of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewshot.features.images.decode import decode
from fewshot.features.images.listing import ImageList, ImageRecord, Images, list_images, read_bytes
from fewshot.features.images.unreadable import UnreadableImage

__all__ = ["PixelStatistics", "measure_pixels"]

# Of images in one colour.
_LEAST_STD = 1 / 255


class PixelStatistics(NamedTuple):
    """Mean and standard deviation of each channel, in units of the range [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def measure_pixels(images: Images | ImageList, *, n_images: int = 256, seed: int = 0) -> PixelStatistics:
    """Measure the pixels of a random sample of images, each of which counts alike; unreadable ones are passed over.

    A random network maps letters on white, normalised as photographs, to almost one output.

    Parameters
    ----------
    images
        As of `list_images`.
    n_images : int
        Of the sample, at most.
    seed : int

    Raises
    ------
    ValueError
        If there are no images, or none of the sample can be read.
    """
    listed = list_images(images)
    drawn = torch.randperm(len(listed.records), generator=torch.Generator().manual_seed(seed))[:n_images].tolist()
    moments = [moment for i in drawn for moment in _moments(listed, listed.records[i])]
    if not moments:
        place = f"drawn from {listed.root}" if listed.root else "drawn"
        raise ValueError(f"none of {len(drawn)} images that were {place} can be read: repair them")
    mean, square = torch.stack(moments).mean(0)
    std = (square - mean.square()).clamp(min=_LEAST_STD**2).sqrt()
    return PixelStatistics(tuple(mean.tolist()), tuple(std.tolist()))


def _moments(listed: ImageList, record: ImageRecord) -> Iterator[Tensor]:
    """Yield the mean and the mean square of an image's channels (2, 3), if it can be read."""
    try:
        image = decode(read_bytes(listed.root, record)).image
    except UnreadableImage:
        return
    pixels = torch.from_numpy(np.array(image)).double().flatten(0, 1) / 255
    yield torch.stack([pixels.mean(0), pixels.square().mean(0)])
