"""Images as folders: one for each class."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from torch import Tensor

from fewshot.checks import SettingError
from fewshot.features.images.pictures import ImageFiles
from fewshot.storage.result_folders import checked_place, filling_folder, visible_names

__all__ = ["check_export", "export_folders", "safe_names"]

# The longest file name, in bytes.
_N_BYTES = 120


def check_export(path: str) -> None:
    """Check that folders can be written: there is nothing, or an empty folder.

    Raises
    ------
    OSError
        If its parent is not there or cannot be written to, or ``path`` is a file.
    SettingError
        If it is not empty.
    """
    folder = checked_place(path)
    if visible_names(folder):
        raise SettingError("{export} {0} is not empty: name a new folder", path)


def export_folders(path: str, files: ImageFiles, labels: Tensor, class_names: Sequence[str], *, is_linked: bool) -> int:
    """Write a folder for each class, with its images; return how many could not be had.

    Parameters
    ----------
    path : str
        The folder of the folders.
    files : ImageFiles
    labels : Tensor (n,), int64
        The class of each image.
    class_names : sequence of str
    is_linked : bool
        Whether images are linked to, symbolically and absolutely, or copied. One inside of an archive is written out in
        any case.
    """
    folders, names = safe_names(class_names), safe_names(files.ids)
    n_missing = 0
    with filling_folder(path) as temporary:
        for folder in folders:
            (temporary / folder).mkdir()
        for row, label in enumerate(labels.tolist()):
            n_missing += not files.place(row, temporary / folders[label] / names[row], is_linked=is_linked)
    return n_missing


def safe_names(texts: Sequence[str]) -> list[str]:
    """Return a distinct file name for each text that is one on any system; the suffix stays.

    Examples
    --------
    >>> safe_names(["crow/1.jpg", "crow_1.jpg", "../x", "AUX", "Motacilla alba"])
    ['crow_1.jpg', 'crow_1 (2).jpg', '_x', 'AUX_', 'Motacilla alba']
    """
    taken: set[str] = set()
    return [_distinct(_safe(text), taken) for text in texts]


def _safe(text: str) -> str:
    clean = re.sub(r"[^\w \-.()]", "_", text).strip(". ")
    stem, suffix = os.path.splitext(clean) if re.search(r"\.\w{1,5}$", clean) else (clean, "")
    stem = stem.encode()[:_N_BYTES].decode(errors="ignore").rstrip(". ") or "_"
    reserved = re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", stem)
    return f"{stem}{'_' if reserved else ''}{suffix}"


def _distinct(name: str, taken: set[str]) -> str:
    stem, suffix = os.path.splitext(name)
    number, found = 2, name
    while found.lower() in taken:
        found, number = f"{stem} ({number}){suffix}", number + 1
    taken.add(found.lower())
    return found
