"""A folder of results: checked before the work, filled whole or not at all, and never replaced itself."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from fewshot.checks import SettingError
from fewshot.storage.tensors import check_free, write_text_atomic

__all__ = [
    "SUMMARY",
    "check_out",
    "checked_place",
    "csv_text",
    "filling_folder",
    "settle",
    "visible_names",
    "write_texts",
]

SUMMARY = "summary.json"
# Folders inside of the one that is filled: of files being written, and of files all written that are being moved.
_NEW, _READY = ".fewshot-new", ".fewshot-ready"
_OF_A_DISK = "lost+found"
fcntl = import_module("fcntl") if find_spec("fcntl") else None  # Windows has none


def check_out(path: str, own_names: Collection[str], kind: str) -> bool:
    """Check that a folder can be written, before the work; return whether it holds an earlier result.

    Parameters
    ----------
    path : str
        The folder: new, empty, or an earlier result. Hidden files, and ``lost+found`` of a disk, may be there.
    own_names : collection of str
        The files of a result.
    kind : str
        What the `SUMMARY` of a result says that it is.

    Raises
    ------
    OSError
        If it cannot be written to or made, or ``path`` is a file.
    SettingError
        If it holds other files.
    """
    folder = checked_place(path)
    names = visible_names(folder)
    others = [name for name in names if name not in own_names]
    if others or (names and not _is_of_kind(folder, kind)):
        raise SettingError(
            "{out} {0} holds other files, such as {1}: name a new or empty folder", path, (others or names)[0]
        )
    return bool(names)


def visible_names(folder: Path) -> list[str]:
    """Return what somebody put into a folder, in order; nothing where there is no folder."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if not name.startswith(".") and name != _OF_A_DISK]


def _is_of_kind(folder: Path, kind: str) -> bool:
    try:
        document = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("kind") == kind


def checked_place(path: str) -> Path:
    """Return the folder that is to be written, links followed; finish or remove what a killed writer left in it.

    Raises
    ------
    OSError
        If it cannot be written to or made, or ``path`` is a file.
    """
    folder = _place(path)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{path} is a file: name a folder")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {folder.parent}: create it before writing {folder.name}")
    written = folder if folder.is_dir() else folder.parent
    if not os.access(written, os.W_OK):
        raise PermissionError(f"no right to write to the folder {written}")
    settle(path)
    return folder


def _place(path: str) -> Path:
    return Path(os.path.realpath(path))


@contextmanager
def filling_folder(path: str, last: str = SUMMARY) -> Iterator[Path]:
    """Give a temporary folder inside of ``path`` whose files move into it once all are written, or leave no trace.

    The folder itself is never replaced: it may be a link, a mount point, or where a shell is. Its other files stay.

    Parameters
    ----------
    path
        The folder; made if it is not there.
    last
        The file that moves last, an index of the others.

    Notes
    -----
    Once all is written, one rename declares it ready. A writer that is killed before leaves the old files; one that is
    killed later leaves some files still to be moved, which `settle` does.
    """
    folder = _place(path)
    is_new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        with _alone(folder):
            _settle(folder, last)
            (folder / _NEW).mkdir()
            yield folder / _NEW
            os.rename(folder / _NEW, folder / _READY)
            _move_uninterrupted(folder, last)
    except BaseException:
        shutil.rmtree(folder / _NEW, ignore_errors=True)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
        raise


def settle(path: str, last: str = SUMMARY) -> None:
    """Finish what a killed writer had ready in a folder, and remove what it had not."""
    folder = _place(path)
    if any((folder / name).is_dir() for name in (_NEW, _READY)):
        with _alone(folder):
            _settle(folder, last)


def _settle(folder: Path, last: str) -> None:
    shutil.rmtree(folder / _NEW, ignore_errors=True)
    if (folder / _READY).is_dir():
        _move_uninterrupted(folder, last)


def _move_uninterrupted(folder: Path, last: str) -> None:
    try:
        _move(folder, last)
    except BaseException:
        _move(folder, last)
        raise


def _move(folder: Path, last: str) -> None:
    names = sorted(entry.name for entry in (folder / _READY).iterdir())
    for name in sorted(names, key=lambda name: name == last):
        os.replace(folder / _READY / name, folder / name)
    (folder / _READY).rmdir()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for other writers of a folder, where its system has locks; one of a killed process is gone with it."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_texts(path: Path, texts: Mapping[str, str]) -> None:
    """Write the files of a folder, each flushed to the disk.

    Raises
    ------
    DiskFullError
        If they do not fit: how much they need, and how much is free.
    """
    check_free(path, sum(len(text.encode()) for text in texts.values()), "results")
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
