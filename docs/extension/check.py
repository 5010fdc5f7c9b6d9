"""Is everything on the built site? ``python -m docs.extension.check SITE`` lists what is missing, and fails."""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from sphinx.util.inventory import InventoryFile

import fewshot
from docs.extension.names import command_names, method_names
from docs.extension.packages import home

__all__ = ["missing"]

# Directives that were not read as such.
_MARKUP = re.compile(r"(?<![\w`])\.\. [\w:-]+::")


def missing(site: Path) -> Iterator[str]:
    """Yield the commands, methods and public names that the built site does not document, and markup that it shows."""
    with (site / "objects.inv").open("rb") as stream:
        inventory = InventoryFile.load(stream, "", lambda base, target: target)
    documented = {name for kind, items in inventory.items() if kind.startswith("py:") for name in items}
    for name in {*fewshot.__all__, *fewshot._LAZY}:
        if home(getattr(fewshot, name), f"fewshot.{name}") not in documented:
            yield f"fewshot.{name} is not in the reference of the API"
    commands = _headings(site / "reference" / "cli.html")
    named = [f"fewshot {name}" for name in command_names()]
    yield from (f"{name} is not on the page of commands" for name in named if name not in commands)
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(site.rglob("*.html"))}
    yield from (
        f"{page.relative_to(site)} shows markup: {found[0]}"
        for page, text in pages.items()
        for found in _MARKUP.finditer(text)
    )
    methods = set().union(*(_headings(page) for page in (site / "methods").glob("*.html")))
    yield from (f"{name} is on no page of methods" for name in method_names() if name not in methods)


def _headings(page: Path) -> set[str]:
    """Return the texts of a page's headings."""
    found = re.findall(r"<h[2-6]>(.*?)<a class=\"headerlink\"", page.read_text(encoding="utf-8"), re.DOTALL)
    return {html.unescape(re.sub("<.*?>", "", text)).strip() for text in found}


def main() -> None:
    """Check the site of the command line."""
    if lines := list(missing(Path(sys.argv[1]))):
        raise SystemExit("\n".join(lines))


if __name__ == "__main__":
    main()
