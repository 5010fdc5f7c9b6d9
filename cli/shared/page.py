"""The pages that commands write: a template's ``{{names}}`` filled, one style sheet for all."""

from __future__ import annotations

import re
from importlib.resources import files

__all__ = ["fill_page", "read_text"]


def read_text(name: str) -> str:
    """Return the text of a file beside the commands, such as ``"discover/page.js"``."""
    return (files("fewshot.cli") / name).read_text(encoding="utf-8")


def fill_page(template: str, **parts: str) -> str:
    """Return the page ``template`` with each ``{{name}}`` replaced; ``{{css}}`` is the common style sheet."""
    parts["css"] = read_text("shared/page.css")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read_text(template))
