"""Folders for files that nobody asked for: gone with the command, or with the next one if it is killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewshot.storage.tensors import DiskFullError, is_left_over, process_mark, space_error

__all__ = ["scratch_folder"]

_PREFIX = "fewshot-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give a folder of this process where the system has its temporary files, and remove it afterwards.

    Raises
    ------
    OSError
        If the disk is full: which, and how to use another.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{_PREFIX}*"):
        if is_left_over(left.name.removeprefix(_PREFIX)):
            shutil.rmtree(left, ignore_errors=True)
    folder = place / f"{_PREFIX}{process_mark()}"
    try:
        folder.mkdir(mode=0o700)
        yield folder
    except OSError as error:
        full = error if isinstance(error, DiskFullError) else space_error(error, place)
        if full is None:
            raise
        raise DiskFullError(f"{full}: the environment variable TMPDIR names it") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
