"""README as the package index shows it: ``python -m tests.tools.absolute_links FILE REPOSITORY`` rewrites its links.

The index knows no files beside README: links into the repository must be absolute there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import fewshot

__all__ = ["absolute_links"]

_LINK = re.compile(r"(!?)(\[[^\]]*\]\()([^):#]+)(?=[)#])")


def absolute_links(text: str, repository: str, tag: str) -> str:
    """Return Markdown with its relative links as addresses in a repository at a tag; pictures as their raw files.

    Examples
    --------
    >>> absolute_links("![a](docs/a.png) [b](b.md#c) [d](https://d.org) [e](#e)", "https://git.org/x/y", "v1")
    '![a](https://git.org/x/y/raw/v1/docs/a.png) [b](https://git.org/x/y/blob/v1/b.md#c) [d](https://d.org) [e](#e)'
    """
    base = repository.rstrip("/")
    return _LINK.sub(lambda link: f"{link[1]}{link[2]}{base}/{'raw' if link[1] else 'blob'}/{tag}/{link[3]}", text)


def main() -> None:
    """Rewrite a file of the command line."""
    path, repository = Path(sys.argv[1]), sys.argv[2]
    if not repository.startswith("https://"):
        raise SystemExit(f"expected the https:// address of the repository, got {repository!r}: make dist REPOSITORY=…")
    text = absolute_links(path.read_text(encoding="utf-8"), repository, f"v{fewshot.__version__}")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
