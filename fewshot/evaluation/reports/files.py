"""The files of a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fewshot.checks import SettingError, check_choice
from fewshot.evaluation.reports.figure import check_drawing, figure_svg
from fewshot.evaluation.reports.panels import panels
from fewshot.evaluation.reports.records import Record
from fewshot.evaluation.reports.text import csv_table, latex_tables, markdown_tables
from fewshot.storage.result_folders import filling_folder, write_texts

__all__ = ["FORMATS", "check_report", "write_report"]

FORMATS = {"markdown": "table.md", "csv": "table.csv", "latex": "table.tex", "svg": "figure.svg"}
"""Formats and their files."""

_WRITERS: Mapping[str, Callable[[Sequence[Record]], str]] = {
    "markdown": lambda records: markdown_tables(panels(records)),
    "csv": csv_table,
    "latex": lambda records: latex_tables(panels(records)),
    "svg": lambda records: figure_svg(panels(records)),
}


def check_report(folder: str | Path, formats: Sequence[str] = tuple(FORMATS)) -> None:
    """Check that a report can be written, before any work.

    Raises
    ------
    SettingError
        If the folder is a file.
    ValueError
        If a format is not known.
    ImportError
        If a figure is asked for and there is nothing to draw with.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise SettingError("{0} is a file: name a folder with {out}", folder)
    for name in formats:
        check_choice("format", name, FORMATS)
    if "svg" in formats:
        check_drawing()


def write_report(records: Sequence[Record], folder: str | Path, formats: Sequence[str] = tuple(FORMATS)) -> list[str]:
    """Write tables and a figure of results.

    Parameters
    ----------
    records : sequence of Record
        As `joined` returns them.
    folder : str or path
        Made if it is not there.
    formats : sequence of str
        Of `FORMATS`.

    Returns
    -------
    list of str
        The paths of the files.

    Raises
    ------
    SettingError, ValueError, ImportError
        As `check_report`.
    """
    check_report(folder, formats)
    texts = {FORMATS[name]: _WRITERS[name](records) for name in formats}
    Path(os.path.realpath(folder)).parent.mkdir(parents=True, exist_ok=True)
    with filling_folder(f"{folder}") as temporary:
        write_texts(temporary, texts)
    return [f"{Path(folder) / name}" for name in texts]
