"""Parts of pages that are written by the program: a line ``<!-- generated: NAME ARGUMENT -->`` becomes Markdown.

The marks are replaced as Sphinx reads a page, so that no generated text is kept in the repository.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from docs.extension.commands import command_sections, command_table
from docs.extension.methods import method_sections, method_table
from docs.extension.packages import package

__all__ = ["PARTS", "expanded"]

PARTS: dict[str, Callable[..., str]] = {
    "command_sections": command_sections,
    "command_table": command_table,
    "method_sections": method_sections,
    "method_table": method_table,
    "package": package,
}
_MARK = re.compile(r"^<!-- generated: (\w+)(?: ([\w.-]+))? -->$", re.MULTILINE)


def expanded(text: str) -> str:
    """Replace the marks of a page.

    Raises
    ------
    KeyError
        If nothing generates what a mark names.
    """
    return _MARK.sub(lambda mark: PARTS[mark[1]](*filter(None, [mark[2]])), text)
