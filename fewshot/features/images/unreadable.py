"""Unreadable images: one error with its codes, and guards that convert all others to it."""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

__all__ = ["UnreadableImage", "guarding_pil", "reading"]

_N_CHARACTERS = 200


class UnreadableImage(ValueError):  # noqa: N818 (the image is at fault, not the program)
    """An image that gives no pixels.

    Attributes
    ----------
    code : str
        ``missing``, ``permission``, ``empty``, ``truncated``, ``unreadable`` (not an image, or a damaged one),
        ``unsupported`` (a kind of image that is not read, or values without a defined 8-bit scale) or ``too-large``.
    text : str
        One line of detail.

    Examples
    --------
    >>> error = UnreadableImage("empty", "0 bytes")
    >>> error.code, str(error)
    ('empty', 'empty: 0 bytes')
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


@contextmanager
def reading(source: bytes | str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open bytes or the file of a path for reading.

    Raises
    ------
    UnreadableImage
        ``empty`` for 0 bytes; ``missing``, ``permission`` or ``unreadable`` as the file system answers, here or inside
        of the block.
    """
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                raise UnreadableImage("empty", "the image has 0 bytes")
            file.seek(0)
            yield file
    except OSError as error:
        raise UnreadableImage(_file_code(error), f"{error.filename or 'file'}: {error.strerror or error}") from error


def _file_code(error: OSError) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "missing"
    return "permission" if isinstance(error, PermissionError) else "unreadable"


@contextmanager
def guarding_pil() -> Iterator[None]:
    """Silence PIL's warnings, and turn whatever it raises over a file into `UnreadableImage`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with _SILENCE:
            yield
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage("too-large", _one_line(error)) from error
    except MemoryError as error:
        raise UnreadableImage("too-large", "not enough memory to decode it") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage("unreadable", "not an image of a known kind, or cut off in its header") from error
    except Exception as error:
        is_short = isinstance(error, EOFError) or re.search("truncated|unexpected end|not enough", str(error), re.I)
        raise UnreadableImage("truncated" if is_short else "unreadable", _one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_N_CHARACTERS]


class _Silence:
    """Ignores warnings that PIL gives while at least one thread is inside; those of other modules pass."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._filters.__exit__(None, None, None)


_SILENCE = _Silence()
