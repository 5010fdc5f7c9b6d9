"""Several views of one image, after [OTS]: jittered copies for classification, overlapping regions for retrieval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from fewshot.checks import check_choice

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["JITTER_NAMES", "ROTATION_DEGREES", "Box", "jitter16", "region_views", "spatial_regions"]

_UPRIGHT = (
    "whole",
    "top-left",
    "top-right",
    "bottom-left",
    "bottom-right",
    "centre",
    "rotated-1",
    "rotated-2",
)
JITTER_NAMES = (*_UPRIGHT, *(f"{name}-mirrored" for name in _UPRIGHT))
ROTATION_DEGREES = (-10.0, 10.0)
SQUARES = ("enclosing", "none")


class Box(NamedTuple):
    """A part of an image in pixels, ``right`` and ``bottom`` excluded, as PIL's `crop` takes it."""

    left: int
    top: int
    right: int
    bottom: int


def jitter16(image: Image.Image, *, degrees: tuple[float, float] = ROTATION_DEGREES) -> tuple[Image.Image, ...]:
    """Return 16 views of an image: {whole, 5 crops, 2 rotations} as they are, then the same mirrored.

    Parameters
    ----------
    image
        Any size.
    degrees
        Angles of the two rotations, counter-clockwise, between -90 and 90. [OTS] does not state them. With angles a and
        -a the mirrored image has the same 16 views.

    Returns
    -------
    tuple of PIL.Image.Image
        In the order of `JITTER_NAMES`. A crop's sides are 2/3 of the image's, to one pixel: 4/9 of its area. A rotation
        is the largest part of the image's shape that lies inside of the rotated image, so that nothing is filled in.

    Raises
    ------
    ValueError
        If an angle is out of range.

    Notes
    -----
    [OTS] squeezes each view to the network's square: `Preprocess` with ``resize="squash"``.

    Source
    ------
    [OTS] Classification with augmented data.
    """
    from PIL import ImageOps

    if not all(-90 <= angle <= 90 for angle in degrees):
        raise ValueError(f"degrees must lie in [-90, 90], got {degrees}")
    crops = [image.crop(box) for box in _jitter_boxes(image.height, image.width)]
    upright = [image.copy(), *crops, *(_rotated(image, angle) for angle in degrees)]
    return (*upright, *map(ImageOps.mirror, upright))


def spatial_regions(height: int, width: int, n_levels: int, *, square: str = "enclosing") -> tuple[Box, ...]:
    """Cover an image with i^2 equally sized, overlapping regions at each level i = 1 ... n_levels.

    Parameters
    ----------
    height, width
        Of the image, or of the region of interest.
    n_levels
        At least 1; [OTS] takes 4 for references and 3 for queries.
    square
        - ``enclosing``: squares of side ceil(2 L / (i + 1)), L the longer side of the image; inside of the image in the
          directions in which they fit, centered over it in the others (where the i columns or rows then coincide).
        - ``none``: of the image's shape, inside of the image; a network's square input squeezes them.

    Returns
    -------
    tuple of Box
        n_levels (n_levels + 1) (2 n_levels + 1) / 6, level by level, from left to right and top to bottom. Neighbours
        are evenly spread; they share half of their side where L is the image's side in their direction, which is a
        choice made here. The union of each level covers the image; level 1 is the smallest square around the image,
        or the image.

    Raises
    ------
    ValueError
        If a number is below 1, or ``square`` is not known.

    Source
    ------
    [OTS] Instance retrieval: spatial search.

    Examples
    --------
    >>> spatial_regions(6, 6, 2)[1:]
    (Box(left=0, top=0, right=4, bottom=4), Box(left=2, top=0, right=6, bottom=4),
     Box(left=0, top=2, right=4, bottom=6), Box(left=2, top=2, right=6, bottom=6))
    >>> spatial_regions(4, 6, 1), spatial_regions(4, 6, 1, square="none")
    ((Box(left=0, top=-1, right=6, bottom=5),), (Box(left=0, top=0, right=6, bottom=4),))
    """
    check_choice("square", square, SQUARES)
    if min(height, width, n_levels) < 1:
        raise ValueError(f"height, width and n_levels must be at least 1, got {height}, {width} and {n_levels}")
    tall, wide = (max(height, width),) * 2 if square == "enclosing" else (height, width)
    return tuple(box for level in range(1, n_levels + 1) for box in _level(height, width, tall, wide, level))


def region_views(
    image: Image.Image,
    n_levels: int,
    *,
    square: str = "enclosing",
    fill: tuple[int, int, int] = (0, 0, 0),
) -> tuple[Image.Image, ...]:
    """Return the `spatial_regions` of an RGB image; pixels outside of the image are ``fill``.

    Raises
    ------
    ValueError
        As `spatial_regions`.
    """
    boxes = spatial_regions(image.height, image.width, n_levels, square=square)
    return tuple(_crop(image, box, fill) for box in boxes)


def _jitter_boxes(height: int, width: int) -> tuple[Box, ...]:
    """Return four corners and the center; margins are even, so that mirroring the image mirrors the boxes."""
    x, y = (width + 3) // 6, (height + 3) // 6
    right, bottom = width - 2 * x, height - 2 * y
    corners = ((0, 0), (2 * x, 0), (0, 2 * y), (2 * x, 2 * y), (x, y))
    return tuple(Box(left, top, left + right, top + bottom) for left, top in corners)


def _rotated(image: Image.Image, angle: float) -> Image.Image:
    """Rotate about the center, keeping the largest rectangle of the same shape that the rotated image contains."""
    from PIL import Image

    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    share = min(
        image.width / (image.width * cos + image.height * abs(sin)),
        image.height / (image.width * abs(sin) + image.height * cos),
    )
    width, height = max(int(image.width * share), 1), max(int(image.height * share), 1)
    x = image.width / 2 - (cos * width - sin * height) / 2
    y = image.height / 2 - (sin * width + cos * height) / 2
    return image.transform(
        (width, height), Image.Transform.AFFINE, (cos, -sin, x, sin, cos, y), Image.Resampling.BILINEAR
    )


def _level(height: int, width: int, tall: int, wide: int, level: int) -> list[Box]:
    """Return the regions of one level, whose first has sides ``tall`` and ``wide``."""
    tall, wide = math.ceil(2 * tall / (level + 1)), math.ceil(2 * wide / (level + 1))
    lefts, tops = _spread(width, wide, level), _spread(height, tall, level)
    return [Box(left, top, left + wide, top + tall) for top in tops for left in lefts]


def _spread(side: int, length: int, n: int) -> list[int]:
    """Return where ``n`` stretches start that are evenly spread over a side, or centered over one that is shorter."""
    margin = side - length
    return [margin * position // (n - 1) for position in range(n)] if n > 1 and margin > 0 else [margin // 2] * n


def _crop(image: Image.Image, box: Box, fill: tuple[int, int, int]) -> Image.Image:
    from PIL import Image

    view = Image.new("RGB", (box.right - box.left, box.bottom - box.top), fill)
    view.paste(image, (-box.left, -box.top))
    return view
