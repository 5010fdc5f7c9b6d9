"""The notebooks as pages: the copies that ``make notebooks`` executed, in the place of the tutorials."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat

__all__ = ["copy_notebooks"]


def copy_notebooks(notebooks: Path, executed: Path, pages: Path) -> None:
    """Copy the executed notebooks to the folder of the pages, and drop pages of notebooks that are gone.

    Raises
    ------
    ValueError
        If a notebook has no executed copy, or one of other cells.
    """
    for page in pages.glob("*.ipynb"):
        page.unlink()
    for path in sorted(notebooks.glob("*.ipynb")):
        copy = executed / path.name
        if not copy.exists() or _sources(copy) != _sources(path):
            raise ValueError(f"{path.name} has no executed copy in {executed}: run make notebooks")
        shutil.copyfile(copy, pages / path.name)


def _sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]
