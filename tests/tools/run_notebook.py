"""Run a notebook from top to bottom: ``python -m tests.tools.run_notebook NOTEBOOK COPY``; a failing cell is an error.

The copy has the outputs; the site shows it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main() -> None:
    """Execute a notebook in a fresh kernel, without touching the file, and write the copy."""
    import nbformat
    from nbclient import NotebookClient

    path, copy = map(Path, sys.argv[1:])
    started = time.perf_counter()
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, copy)
    print(f"{path}: passed in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
