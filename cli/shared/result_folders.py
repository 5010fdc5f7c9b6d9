"""A folder of results: checked before the work, and written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fewshot.storage import write_text_atomic

__all__ = ["checked_place", "write_texts", "writing_folder"]


def checked_place(path: str) -> Path:
    """Return the folder that is to be written, absolute.

    Raises
    ------
    OSError
        If its parent is not there or cannot be written to, or ``path`` is a file.
    """
    folder = Path(path).absolute()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{path} is a file: name a folder")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {Path(path).parent}: create it before writing {folder.name}")
    if not os.access(folder.parent, os.W_OK):
        raise PermissionError(f"no right to write to the folder {Path(path).parent}")
    return folder


@contextmanager
def writing_folder(path: str) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` that takes its place once all is written, or leaves no trace."""
    folder, mark = Path(path).absolute(), secrets.token_hex(4)
    temporary, old = (folder.with_name(f".{folder.name}.{mark}.{ending}") for ending in ("tmp", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.rename(old)
        try:
            temporary.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_texts(path: Path, texts: Mapping[str, str]) -> None:
    """Write the files of a folder, each flushed to the disk."""
    for name, text in texts.items():
        write_text_atomic(path / name, text)
