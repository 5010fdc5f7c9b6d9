"""PIL images of every mode to 8-bit RGB; see the table of `fewshot.features.images.decode.decode`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fewshot.features.images.unreadable import UnreadableImage

if TYPE_CHECKING:
    from PIL import Image, ImageFile

__all__ = [
    "FULL_RANGE",
    "NARROW",
    "BitRange",
    "is_gray",
    "is_narrow",
    "is_wide",
    "mode_notes",
    "narrow_words",
    "stated_range",
    "to_rgb",
    "warn_of_narrow",
]

BitRange: TypeAlias = tuple[int, int]
FULL_RANGE: BitRange = (0, 65535)
NARROW = "16-bit-narrow"
"""Note of an image that leaves the upper two bits unused, or all but a sixteenth of the range."""

_WIDE_COLOUR = re.compile(r"\b(LA|RGB|RGBA|RGBX|CMYK);16")
_BITS_PER_SAMPLE, _MIN_SAMPLE_VALUE, _MAX_SAMPLE_VALUE = 258, 280, 281
_LEAST_HIGH, _LEAST_WIDTH = 2**14, 2**12
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


def stated_range(image: Image.Image) -> BitRange | None:
    """Return the range that the tags of a TIFF state: its bits a sample, or its largest (and smallest) sample value.

    ``sBIT`` of a PNG says how many bits were significant before they were scaled to all 16: it states no range.
    """
    tags = getattr(image, "tag_v2", {})
    bits, low, high = (_first(tags.get(tag)) for tag in (_BITS_PER_SAMPLE, _MIN_SAMPLE_VALUE, _MAX_SAMPLE_VALUE))
    low = 0 if low is None else low
    if high is not None and 0 <= low < high <= FULL_RANGE[1]:
        return low, high
    return (0, 2**bits - 1) if bits is not None and 8 < bits < 16 else None


def _first(value: object) -> int | None:
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else None


def narrow_words(n_images: int) -> str:
    """Return a sentence about images whose note is `NARROW`, with a place for the name of the setting."""
    images = "1 image" if n_images == 1 else f"{n_images:,} images"
    return (
        f"{images} of 16 bits use a small part of 0 to 65535 and come out dark or flat: say the darkest and the "
        "lightest value by {bit_range}, such as 0 and 4095 of 12 bits"
    )


def warn_of_narrow(n_images: int) -> None:
    """Warn of images whose note is `NARROW`, if there are some."""
    if n_images:
        warnings.warn(narrow_words(n_images).format(bit_range="bit_range"), stacklevel=3)


def is_gray(image: Image.Image) -> bool:
    """Tell whether an image has one channel of 16-bit or 32-bit integers."""
    return _mode(image) == "I"


def is_narrow(image: Image.Image) -> bool:
    """Tell whether 16-bit gray values leave most of the range from 0 to 65535 unused; those of one value do not."""
    if _mode(image) != "I":
        return False
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    return low < high and (high < _LEAST_HIGH or high - low < _LEAST_WIDTH)


def to_rgb(image: Image.Image, wide: bool, bit_range: BitRange = FULL_RANGE) -> Image.Image:
    """Convert an image of any mode, which stays as it is, to RGB; ``bit_range`` is that of 16-bit gray values.

    Raises
    ------
    UnreadableImage
        ``unsupported``: floating-point pixels, or integers outside [0, 65535].
    """
    if _mode(image) == "I":
        return _from_integers(image, bit_range)
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


def _from_integers(image: Image.Image, bit_range: BitRange) -> Image.Image:
    from PIL import Image

    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnreadableImage(
            "unsupported", f"values from {low} to {high} have no defined 8-bit scale: save it with 8 or 16 bits"
        )
    if "transparency" in image.info:
        values = np.where(values == image.info["transparency"], bit_range[1], values)
    first, last = bit_range
    levels = (values.astype(np.int64) - first) * 256 // (last - first + 1)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


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


_OWN: dict[str, Callable[[Image.Image], Image.Image]] = {"F": _from_floats, "LAB": _from_lab}
