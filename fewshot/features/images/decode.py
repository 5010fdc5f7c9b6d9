"""Encoded images to upright 8-bit RGB: one defined treatment of every kind of file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from fewshot.features.images.kinds import HEAD_SIZE, has_heif, is_image_head, kind_of_head
from fewshot.features.images.rgb import (
    FULL_RANGE,
    NARROW,
    BitRange,
    is_gray,
    is_narrow,
    is_wide,
    mode_notes,
    stated_range,
    to_rgb,
)
from fewshot.features.images.unreadable import UnreadableImage, guarding_pil, reading

if TYPE_CHECKING:
    from PIL import Image, ImageFile

__all__ = ["MAX_PIXELS", "MAX_SIDE", "Decoded", "UnreadableImage", "decode"]

MAX_PIXELS = 178_956_970
MAX_SIDE = 2**20
_FORMATS = (
    "AVIF",
    "BMP",
    "GIF",
    "HEIF",
    "JPEG",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)  # PIL knows more; some start programs (EPS)
_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class Decoded(NamedTuple):
    """An image and its conversions.

    Attributes
    ----------
    image : PIL.Image.Image
        Mode RGB, upright.
    notes : tuple of str
        The treatments of `decode` that applied, in its order.
    """

    image: Image.Image
    notes: tuple[str, ...]


def decode(
    source: bytes | str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, bit_range: BitRange | None = None
) -> Decoded:
    """Decode an AVIF, BMP, GIF, JPEG, PNG, PNM, TIFF or WebP image, recognised by its content, to upright 8-bit RGB.

    ==================== ==========================================================================================
    note                 treatment
    ==================== ==========================================================================================
    ``exif-orientation`` turned and mirrored as the EXIF or XMP tag asks
    ``16-bit``           the high byte is kept: floor(v / 256), so 65535 becomes 255 and 257 v becomes v; gray values
                         of a range [a, b], given or stated by a TIFF: floor(256 (v - a) / (b - a + 1)) in 0 ... 255
    ``16-bit-narrow``    nothing: no range was given or stated, and most of 0 ... 65535 is not used, so that the result
                         is dark or flat
    ``1-bit``            0 and 255, the same in three channels
    ``grayscale``        the same in three channels
    ``palette``          looked up
    ``cmyk``             (255 - C)(255 - K) / 255 and so on; a JPEG's inks are taken as Adobe writes them, inverted
    ``ycbcr``, ``hsv``   PIL's formulas (the YCbCr inside of a JPEG is not noted)
    ``lab``              D50 to sRGB by LittleCMS
    ``alpha-on-white``   alpha, as a channel, in the palette or as one transparent colour: composited on white
    ``icc-ignored``      there is a colour profile, which is not applied
    ``first-frame``      the first of several frames or pages
    ==================== ==========================================================================================

    Integers that PIL holds in 32 bits count as 16-bit if all lie in [0, 65535]. Outside of it, and for floating-point
    images, no scale is defined and the image is refused. A transparent colour of a 16-bit RGB PNG is ignored.

    Parameters
    ----------
    source
        The encoded bytes, or the path of a file.
    max_pixels
        More than this, width times height, is refused before anything is decoded, as is a side above 2^20, for which
        resizing would need gigabytes. Default: twice PIL's own `MAX_IMAGE_PIXELS`, past which PIL refuses by itself.
    bit_range
        The darkest and the lightest value of 16-bit gray images, such as (0, 4095). None: what a TIFF states in
        BitsPerSample, MinSampleValue and MaxSampleValue, else (0, 65535). Of 16-bit colour the high byte is all that
        there is: it is refused where a range is given.

    Raises
    ------
    UnreadableImage
        If no pixels can be read; a bad file raises nothing else. A truncated image is never filled up.
    RuntimeError
        If the process has set ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES``, which would fill it up.
    ImportError
        If pillow is not installed.

    Notes
    -----
    Safe in threads and processes: no setting of PIL is changed. Its warnings are silenced while an image is decoded;
    libtiff writes its own about damaged files to stderr.

    Examples
    --------
    >>> image, notes = decode(b"P5 2 1 255 " + bytes([7, 200]))
    >>> list(image.tobytes()), notes
    ([7, 7, 7, 200, 200, 200], ('grayscale',))
    >>> try:
    ...     decode(b"P5 2 1 255 " + bytes([7]))
    ... except UnreadableImage as error:
    ...     error.code
    'truncated'
    """
    _check_pil()
    with reading(source) as file, guarding_pil():
        image = _open(file, max_pixels)
        wide, orientation = is_wide(image), _orientation(image)
        if bit_range is not None and wide and not is_gray(image):
            raise UnreadableImage("unsupported", "a bit range was given, and of 16-bit colour only high bytes are read")
        image.load()
        stated = bit_range or stated_range(image)
        rgb = to_rgb(image, wide, stated or FULL_RANGE)
        upright = rgb if image.format == "TIFF" else _turned(rgb, orientation)  # loading has turned a TIFF
        return Decoded(upright, tuple(_notes(image, orientation, wide, may_be_narrow=stated is None)))


def _check_pil() -> None:
    try:
        from PIL import ImageFile
    except ImportError as error:
        raise ImportError("decoding images needs pillow: pip install pillow") from error
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which fills truncated images up with grey: set it to False"
        )


def _formats() -> list[str]:
    from PIL import Image

    if has_heif() and "HEIF" not in Image.OPEN:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return [name for name in _FORMATS if name in Image.OPEN]


def _open(file: BinaryIO, max_pixels: int) -> ImageFile.ImageFile:
    """Read the header, and refuse sizes out of range."""
    from PIL import Image, UnidentifiedImageError

    Image.init()
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        file.seek(0)
        head = file.read(HEAD_SIZE)
        kind = kind_of_head(head)
        if kind is None or is_image_head(head):
            raise
        raise UnreadableImage("unsupported", f"the content is {kind.name}: {kind.mend}") from None
    n_pixels = image.width * image.height
    size = f"{image.width} x {image.height} pixels"
    if n_pixels > max_pixels:
        raise UnreadableImage("too-large", f"{size}, more than max_pixels={max_pixels}")
    if max(image.size) > MAX_SIDE:
        raise UnreadableImage("too-large", f"{size}, a side longer than {MAX_SIDE}")
    return image


def _orientation(image: Image.Image) -> int:
    """Return the tag of the EXIF data, 1 (upright) if there is none or none that can be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        return orientation if orientation in _TURNS else 1
    except Exception:
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    from PIL import Image

    return image if orientation == 1 else image.transpose(Image.Transpose[_TURNS[orientation]])


def _notes(image: ImageFile.ImageFile, orientation: int, wide: bool, *, may_be_narrow: bool) -> Iterator[str]:
    if orientation != 1:
        yield "exif-orientation"
    yield from mode_notes(image, wide)
    if may_be_narrow and is_narrow(image):
        yield NARROW
    if "icc_profile" in image.info:
        yield "icc-ignored"
    if _has_more_frames(image):
        yield "first-frame"


def _has_more_frames(image: ImageFile.ImageFile) -> bool:
    """Look past the first frame, which is decoded by now: a damaged second one does no harm."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        return False
