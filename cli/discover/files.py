"""The folder that ``fewshot discover`` writes: who is in which class, what was found, and the classes as folders."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fewshot.features import FeatureSet

from ..shared.pictures import ImageFiles
from ..shared.result_folders import checked_place, writing_folder
from .fit import Found
from .pool import DiscoveryPool

__all__ = [
    "ASSIGNMENTS",
    "FORMAT_VERSION",
    "KIND",
    "REPORT",
    "SUMMARY",
    "assignments_csv",
    "check_export",
    "check_out",
    "export_folders",
    "read_summary",
    "rows_hash",
    "safe_names",
]

KIND = "fewshot discovery"
FORMAT_VERSION = 1
ASSIGNMENTS, SUMMARY, REPORT = "assignments.csv", "summary.json", "report.html"
_N_BYTES = 120


def rows_hash(pool: FeatureSet) -> str:
    """Return a fingerprint of the rows and their order, by which a later command knows them again."""
    features = pool.features.detach().cpu().contiguous()
    return hashlib.sha256(features.view(torch.uint8).numpy().data).hexdigest()


def assignments_csv(data: DiscoveryPool, found: Found) -> str:
    """Return the table of rows: ids, scores and truth only where there are some."""
    pool, n = data.pool, len(found.labels)
    columns: dict[str, Sequence[object]] = {"row": range(n)}
    if pool.ids is not None:
        columns["file"] = pool.ids
    labels = found.labels.tolist()
    columns["cluster"] = labels
    columns["class"] = [found.names[label] for label in labels]
    columns["is_known_class"] = [_word(label < found.n_known) for label in labels]
    columns["is_labelled"] = [_word(label >= 0) for label in data.shown.tolist()]
    columns["probability"] = [f"{value:.6g}" for value in found.probability.tolist()]
    if found.outlier_score is not None:
        columns["outlier_score"] = [f"{value:.6g}" for value in found.outlier_score.tolist()]
    if data.truth is not None:
        columns["truth"] = ["" if label < 0 else pool.class_names[label] for label in data.truth.tolist()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _word(value: bool) -> str:
    return "true" if value else "false"


def check_out(path: str, *, is_overwritten: bool) -> None:
    """Check that the folder can be written, before the work.

    Raises
    ------
    OSError
        If its parent is not there or cannot be written to, or ``path`` is a file.
    ValueError
        If it holds other files, or an earlier result that is not to be overwritten.
    """
    folder = checked_place(path)
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name not in (ASSIGNMENTS, SUMMARY, REPORT)]
    if others or (names and not _is_ours(folder)):
        raise ValueError(f"{path} holds other files, such as {(others or names)[0]}: name a new or empty folder")
    if names and not is_overwritten:
        raise ValueError(f"{path} holds what an earlier run found: name another folder, or replace it with --overwrite")


def check_export(path: str) -> None:
    """Check that folders can be written: there is nothing, or an empty folder.

    Raises
    ------
    OSError
        If its parent is not there or cannot be written to, or ``path`` is a file.
    ValueError
        If it is not empty.
    """
    folder = checked_place(path)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"--export-folders {path} is not empty: name a new folder")


def _is_ours(folder: Path) -> bool:
    try:
        read_summary(str(folder))
    except (OSError, ValueError):
        return False
    return True


def read_summary(path: str) -> dict[str, Any]:
    """Read what a folder of ``fewshot discover`` says of itself.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no summary in it.
    ValueError
        If it is of another kind or version.
    """
    file = Path(path) / SUMMARY
    if not file.is_file():
        raise FileNotFoundError(f"no {SUMMARY} in {path}: name the folder that fewshot discover wrote")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): run fewshot discover again") from None
    found = (document.get("kind"), document.get("format_version")) if isinstance(document, dict) else (None, None)
    if found != (KIND, FORMAT_VERSION):
        raise ValueError(f"{file}: expected a {KIND} of version {FORMAT_VERSION}, got {found[0]!r} of {found[1]!r}")
    return dict(document)


def export_folders(path: str, files: ImageFiles, found: Found, *, is_linked: bool) -> int:
    """Write a folder for each class, with its images; return how many could not be had.

    Links are symbolic and absolute. An image inside of an archive is written out, whatever is asked.
    """
    folders, names = safe_names(found.names), safe_names(files.ids)
    n_missing = 0
    with writing_folder(path) as temporary:
        for folder in folders:
            (temporary / folder).mkdir()
        for row, label in enumerate(found.labels.tolist()):
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
