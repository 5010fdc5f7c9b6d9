"""Kinds of files by suffix and by content: images that are read, images that are not and why, and all else."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

__all__ = [
    "HEAD_SIZE",
    "IMAGE_SUFFIXES",
    "UnreadKind",
    "has_heif",
    "has_suffix",
    "is_image_file",
    "is_image_head",
    "is_image_name",
    "kind_of_head",
    "read_head",
    "unread_kind",
]

IMAGE_SUFFIXES = (
    ".apng",
    ".avif",
    ".bmp",
    ".gif",
    ".jfi",
    ".jfif",
    ".jif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
# A shorter file has no brand.
_END_OF_BRAND = 12
# Bytes that tell the content: a DICOM file says it after 128.
HEAD_SIZE = 132


class UnreadKind(NamedTuple):
    """A kind of image that is not read, and what to do about it."""

    name: str
    mend: str


_HEIF = UnreadKind("HEIC", "pip install pillow-heif, or convert to JPEG")
_AVIF = UnreadKind("AVIF", "pip install 'pillow>=11.3', or convert to JPEG")
_RAW = UnreadKind("camera raw", "develop to TIFF or JPEG, as rawpy or darktable do")
_DICOM = UnreadKind("DICOM", "convert to PNG, as pydicom or dcm2pnm do")
_JPEG_2000 = UnreadKind("JPEG 2000", "convert to PNG or TIFF")
_JPEG_XL = UnreadKind("JPEG XL", "convert to PNG or JPEG")
_JPEG_XR = UnreadKind("JPEG XR", "convert to PNG or JPEG")
_HDR = UnreadKind("high dynamic range", "map the tones to PNG or JPEG")
_DRAWING = UnreadKind("drawing or document", "export as PNG")
_SCIENCE = UnreadKind("scientific image", "export planes as TIFF or PNG")
_VIDEO = UnreadKind("video", "extract frames, as ffmpeg does")
_OLD = UnreadKind("other image format", "convert to PNG")
_MISNAMED = UnreadKind("image under another suffix", "rename it to end in that of its format, such as .jpg")

_BY_SUFFIX = {
    suffix: kind
    for kind, suffixes in {
        _HEIF: ".heic .heif .hif .heics .heifs",
        _AVIF: ".avifs",
        _RAW: ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf "
        ".raw .rw2 .rwl .sr2 .srf .srw .x3f",
        _DICOM: ".dcm .dicom",
        _JPEG_2000: ".j2c .j2k .jp2 .jpc .jpf .jpm .jpx",
        _JPEG_XL: ".jxl",
        _JPEG_XR: ".hdp .jxr .wdp",
        _HDR: ".exr .hdr .pfm",
        _DRAWING: ".ai .eps .pdf .ps .psb .psd .svg .svgz .xcf .kra .wmf .emf",
        _SCIENCE: ".czi .fit .fits .lif .lsm .mha .mhd .mrc .nd2 .ndpi .nii .nrrd .oib .oif .stk .svs .vsi",
        _VIDEO: ".3gp .avi .m4v .mkv .mov .mp4 .mpeg .mpg .mts .webm .wmv",
        _OLD: ".cur .dds .dib .icns .ico .pcx .qoi .sgi .tga .xbm .xpm",
    }.items()
    for suffix in suffixes.split()
}
_READ_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
)
_UNREAD_MAGIC = {
    b"\0\0\0\x0cjP  ": _JPEG_2000,
    b"\xff\x4f\xff\x51": _JPEG_2000,
    b"\0\0\0\x0cJXL ": _JPEG_XL,
    b"\xff\x0a": _JPEG_XL,
    b"II\xbc\x01": _JPEG_XR,
    b"FUJIFILMCCD-RAW": _RAW,
    b"IIRO": _RAW,
    b"IIRS": _RAW,
    b"IIU\0": _RAW,
    b"8BPS": _DRAWING,
    b"%PDF": _DRAWING,
    b"%!PS": _DRAWING,
    b"v/1\x01": _HDR,
    b"#?RADIANCE": _HDR,
    b"SIMPLE  =": _SCIENCE,
}
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), _HEIF),
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
    b"crx ": _RAW,
}


@cache
def has_heif() -> bool:
    """Return whether HEIC can be read, by pillow-heif."""
    return find_spec("pillow_heif") is not None


@cache
def _has_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))


def is_image_name(name: str) -> bool:
    """Tell by the suffix, in any case."""
    suffix = _suffix(name)
    return suffix in IMAGE_SUFFIXES or (suffix in _HEIF_SUFFIXES and has_heif())


def is_image_file(path: str) -> bool:
    """Tell by the suffix, or by the content where there is no suffix."""
    name = os.path.basename(path)
    return is_image_name(name) or (not _suffix(name) and os.path.isfile(path) and is_image_head(read_head(path)))


def is_image_head(head: bytes) -> bool:
    """Tell by the first `HEAD_SIZE` bytes whether they begin an image of a format that is read."""
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_pnm = head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace()
    return is_webp or is_pnm or _is_bitmap(head) or _is_read_container(head)


def _is_bitmap(head: bytes) -> bool:
    return head.startswith(_READ_MAGIC) and (head[:2] != b"BM" or head[6:10] == bytes(4))


def _is_read_container(head: bytes) -> bool:
    kind = _container(head)
    return (kind is _HEIF and has_heif()) or (kind is _AVIF and _has_avif())


def _container(head: bytes) -> UnreadKind | None:
    """Return the kind of an ISO media file, by its brand; AVIF often has a brand of HEIF, and its own after it."""
    if head[4:8] != b"ftyp" or len(head) < _END_OF_BRAND:
        return None
    return _AVIF if b"avif" in head[8:64] else _BRANDS.get(head[8:12], _VIDEO)


def unread_kind(name: str, head: bytes) -> UnreadKind | None:
    """Return the kind of an image that is not read, by its content, else by its suffix; None for all other files.

    Examples
    --------
    >>> unread_kind("a.NEF", b"").name, unread_kind("notes.txt", b"some text")
    ('camera raw', None)
    """
    by_suffix = _BY_SUFFIX.get(_suffix(name))
    if by_suffix is None and is_image_head(head):
        return _MISNAMED
    return by_suffix or kind_of_head(head)


def kind_of_head(head: bytes) -> UnreadKind | None:
    """Return the kind of image that some first bytes begin, of those that are not read."""
    if head[128:132] == b"DICM":
        return _DICOM
    return _container(head) or next((kind for magic, kind in _UNREAD_MAGIC.items() if head.startswith(magic)), None)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def has_suffix(name: str) -> bool:
    """Tell whether a name has a suffix."""
    return bool(_suffix(name))


def read_head(path: str) -> bytes:
    """Return the first `HEAD_SIZE` bytes of a file, none if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_SIZE)
    except OSError:
        return b""
