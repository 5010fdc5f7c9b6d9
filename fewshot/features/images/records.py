"""Records of a list of images."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["ImageRecord", "checked_utf8"]


class ImageRecord(NamedTuple):
    """Where one encoded image is.

    Attributes
    ----------
    id : str
        Relative POSIX path; or ``archive.tar/member``.
    label : str or None
        Name of its class; None if unlabelled.
    offset, size : int
        Bytes inside of the archive; -1 and -1 for a file of its own.
    """

    id: str
    label: str | None = None
    offset: int = -1
    size: int = -1


def checked_utf8(name: str) -> str:
    """Return ``name`` if UTF-8 can write it, as stores and tables of features must.

    Raises
    ------
    ValueError
        Otherwise.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"file name {os.fsencode(name)!r} is not UTF-8: rename it") from error
    return name
