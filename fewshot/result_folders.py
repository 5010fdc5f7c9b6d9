"""A folder of results: checked before the work, and written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fewshot.checks import SettingError
from fewshot.storage import write_text_atomic

__all__ = ["SUMMARY", "check_out", "checked_place", "csv_text", "write_texts", "writing_folder"]

SUMMARY = "summary.json"


def check_out(path: str, own_names: Collection[str], kind: str) -> bool:
    """Check that a folder can be written, before the work; return whether it holds an earlier result.

    Parameters
    ----------
    path : str
        The folder: new, empty, or an earlier result.
    own_names : collection of str
        The files of a result.
    kind : str
        What the `SUMMARY` of a result says that it is.

    Raises
    ------
    OSError
        If its parent is not there or cannot be written to, or ``path`` is a file.
    SettingError
        If it holds other files.
    """
    folder = checked_place(path)
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name not in own_names]
    if others or (names and not _is_of_kind(folder, kind)):
        raise SettingError(
            "{out} {0} holds other files, such as {1}: name a new or empty folder", path, (others or names)[0]
        )
    return bool(names)


def _is_of_kind(folder: Path, kind: str) -> bool:
    try:
        document = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("kind") == kind


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


def csv_text(columns: Mapping[str, Iterable[object]]) -> str:
    r"""Return a table as CSV.

    Examples
    --------
    >>> csv_text({"row": range(2), "class": ["crow", "a,b"]})
    'row,class\n0,crow\n1,"a,b"\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
