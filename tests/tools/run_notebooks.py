"""Run notebooks from top to bottom: ``python -m tests.tools.run_notebooks notebooks``; a failing cell is an error."""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main() -> None:
    """Execute each notebook below the folder in a fresh kernel, without touching the file."""
    import nbformat
    from nbclient import NotebookClient

    paths = sorted(Path(sys.argv[1]).glob("*.ipynb"))
    if not paths:
        raise SystemExit(f"no notebooks in {sys.argv[1]}")
    for path in paths:
        started = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        resources = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
        print(f"{path}: passed in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
