"""Resizing and cutting of PIL images in uint8; sizes are (height, width)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Size", "border_size", "cover_size", "halved", "padded", "resized_center", "short_size"]

Size: TypeAlias = tuple[int, int]
_N_PIXELS_WHOLE = 2**24
_SUPPORT = 2  # of the bicubic kernel, in pixels of the coarser of input and output


def short_size(old: Size, target: Size) -> Size:
    """Return the size that just covers ``target``, rounded as torchvision does if that is square, else as timm does."""
    height, width = target
    if height != width:
        ratio = min(old[0] / height, old[1] / width)
        return round(old[0] / ratio), round(old[1] / ratio)
    return height * old[0] // min(old), height * old[1] // min(old)


def cover_size(old: Size, target: Size) -> Size:
    """Return the size that just covers ``target``, by ADM's rounding."""
    scale = max(target[0] / old[0], target[1] / old[1])
    return round(old[0] * scale), round(old[1] * scale)


def border_size(old: Size, target: Size) -> Size:
    """Return the size that just fits in ``target``, at least one pixel a side."""
    ratio = max(old[0] / target[0], old[1] / target[1])
    return max(round(old[0] / ratio), 1), max(round(old[1] / ratio), 1)


def halved(image: Image.Image, target: Size) -> Image.Image:
    """Halve by 2 x 2 means (of odd sides, by slightly wider ones) while both sides are at least twice ``target``."""
    from PIL import Image

    while image.height >= 2 * target[0] and image.width >= 2 * target[1]:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image


def resized_center(image: Image.Image, new: Size, size: Size, interpolation: str, *, floor: bool) -> Image.Image:
    """Resize to ``new`` and crop the center to ``size``, or to the smaller image.

    Parameters
    ----------
    floor
        Whether an odd margin is halved by rounding down, or to the even number.
    """
    from PIL import Image

    kernel = Image.Resampling[interpolation.upper()]
    top, height = _window(new[0], size[0], floor)
    left, width = _window(new[1], size[1], floor)
    if new[0] * new[1] <= _N_PIXELS_WHOLE:
        return image.resize((new[1], new[0]), kernel).crop((left, top, left + width, top + height))
    x0, x1, left_edge, right_edge = _source_window(image.width, new[1], left, width)
    y0, y1, top_edge, bottom_edge = _source_window(image.height, new[0], top, height)
    near = image.crop((x0, y0, x1, y1))
    return near.resize((width, height), kernel, box=(left_edge, top_edge, right_edge, bottom_edge))


def padded(image: Image.Image, size: Size, mean: tuple[float, float, float]) -> Image.Image:
    """Put an image that is nowhere larger in the middle of ``size``, on a ground of ``mean`` in [0, 1]."""
    from PIL import Image

    red, green, blue = (min(max(round(255 * value), 0), 255) for value in mean)
    ground = Image.new("RGB", (size[1], size[0]), (red, green, blue))
    ground.paste(image, ((size[1] - image.width) // 2, (size[0] - image.height) // 2))
    return ground


def _window(new: int, size: int, floor: bool) -> tuple[int, int]:
    """Return start and length of the center of a side."""
    margin = max(new - size, 0)
    return margin // 2 if floor else round(margin / 2), min(new, size)


def _source_window(old: int, new: int, start: int, length: int) -> tuple[int, int, float, float]:
    """Return the pixels that a stretch of a resized side depends on, and the edges of the stretch within them."""
    scale = old / new
    margin = math.ceil(_SUPPORT * max(scale, 1)) + 1
    first = max(math.floor(start * scale) - margin, 0)
    last = min(math.ceil((start + length) * scale) + margin, old)
    return first, last, start * scale - first, min((start + length) * scale, old) - first
