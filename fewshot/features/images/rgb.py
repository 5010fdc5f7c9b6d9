"""PIL images of every mode to 8-bit RGB; see the table of `fewshot.features.images.decode.decode`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from fewshot.features.images.unreadable import UnreadableImage

if TYPE_CHECKING:
    from PIL import Image, ImageFile

__all__ = ["is_wide", "mode_notes", "to_rgb"]

_WIDE_COLOUR = re.compile(r"\b(LA|RGB|RGBA|RGBX|CMYK);16")
_NOTES = {
    "1": "1-bit",
    "L": "grayscale",
    "LA": "grayscale",
    "I": "grayscale",
    "P": "palette",
    "PA": "palette",
    "CMYK": "cmyk",
    "YCbCr": "ycbcr",
    "LAB": "lab",
    "HSV": "hsv",
}


def is_wide(image: ImageFile.ImageFile) -> bool:
    """Tell whether an image, opened and not yet loaded, has 16 bits a channel, of which PIL keeps 8 in colour."""
    return _mode(image) == "I" or bool(_WIDE_COLOUR.search(str(image.tile)))


def mode_notes(image: Image.Image, wide: bool) -> Iterator[str]:
    """Yield the conversions of `to_rgb` for an image, in the order of the table."""
    if wide:
        yield "16-bit"
    if _mode(image) in _NOTES:
        yield _NOTES[_mode(image)]
    if _has_alpha(image, wide):
        yield "alpha-on-white"


def to_rgb(image: Image.Image, wide: bool) -> Image.Image:
    """Convert an image of any mode, which stays as it is, to RGB.

    Raises
    ------
    UnreadableImage
        ``unsupported``: floating-point pixels, or integers outside [0, 65535].
    """
    if _mode(image) in _OWN:
        return _OWN[_mode(image)](image)
    return _on_white(image.convert("RGBA")) if _has_alpha(image, wide) else image.convert("RGB")


def _mode(image: Image.Image) -> str:
    """Return the mode, the byte orders of 16-bit integers being one."""
    return "I" if image.mode.startswith("I;16") else image.mode


def _has_alpha(image: Image.Image, wide: bool) -> bool:
    """Tell whether there is an alpha; PIL has lost the low bytes that a transparent 16-bit colour would be known by."""
    has_key = "transparency" in image.info and not (wide and image.mode == "RGB")
    return has_key or image.mode in ("LA", "PA", "RGBA")


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _from_integers(image: Image.Image) -> Image.Image:
    from PIL import Image

    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnreadableImage(
            "unsupported", f"values from {low} to {high} have no defined 8-bit scale: save it with 8 or 16 bits"
        )
    if "transparency" in image.info:
        values = np.where(values == image.info["transparency"], 65535, values)
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def _from_floats(image: Image.Image) -> Image.Image:
    raise UnreadableImage(
        "unsupported",
        f"floating-point pixels (mode {image.mode}) have no defined 8-bit scale: save it with 8 or 16 bits",
    )


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.ImageCmsTransform(ImageCms.ImageCmsProfile(lab), ImageCms.ImageCmsProfile(srgb), "LAB", "RGB")
    return transform.apply(image)


_OWN: dict[str, Callable[[Image.Image], Image.Image]] = {"I": _from_integers, "F": _from_floats, "LAB": _from_lab}
