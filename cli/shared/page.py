"""Report pages: one HTML file each, with everything in it; one template and one style sheet for all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import NamedTuple

from fewshot.features.images.pictures import Picture

from .words import percent

__all__ = ["REPORT", "Head", "picture", "probability_bar", "read_text", "render_page"]

REPORT = "report.html"


class Head(NamedTuple):
    """The head of a page, as texts that are still to be escaped.

    Attributes
    ----------
    command : str
        The command that wrote it.
    subject : str
        The name of its data.
    headline, lead : str
        The answer, and a sentence on it.
    warnings : sequence of str
    version : str
    """

    command: str
    subject: str
    headline: str
    lead: str
    warnings: Iterable[str]
    version: str


def render_page(
    head: Head, sections: Iterable[str], facts: Mapping[str, str], *, heading: str | None = None, scripts: str = ""
) -> str:
    """Return a page.

    Parameters
    ----------
    head
    sections
        HTML; empty ones are left out.
    facts
        How it was made, by label; empty ones are left out.
    heading
        HTML in place of the headline.
    scripts
        HTML at the end of the page.
    """
    parts = {
        "title": escape(f"{head.headline} · fewshot {head.command}"),
        "css": read_text("shared/page.css"),
        "command": head.command,
        "subject": escape(head.subject),
        "heading": heading or escape(head.headline),
        "lead": escape(head.lead),
        "warnings": _warning_list(head.warnings),
        "sections": "\n".join(filter(None, sections)),
        "about": _about(facts),
        "version": escape(head.version),
        "scripts": scripts,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], read_text("shared/page.html"))


def read_text(name: str) -> str:
    """Return the text of a file beside the commands, such as ``"discover/page.js"``."""
    return (files("fewshot.cli") / name).read_text(encoding="utf-8")


def _warning_list(warnings: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return f'<ul class="warnings" aria-label="Warnings">{items}</ul>' if items else ""


def _about(facts: Mapping[str, str]) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text)
    return (
        f'<section id="about" aria-labelledby="about-title"><h2 id="about-title">How it was made</h2><dl>{items}</dl>'
        "</section>"
    )


def picture(uri: Picture, name: str, remark: str, side: int) -> str:
    """Return a small picture as an image element, or its file name where it could not be read."""
    title = escape(f"{name}{remark}")
    if uri is None:
        return f'<span class="none" title="{escape(name)}">could not be read: {escape(name)}</span>'
    return f'<img src="{uri}" alt="{escape(name)}" title="{title}" width="{side}" height="{side}" loading="lazy">'


def probability_bar(share: float | None) -> str:
    """Return a share in per cent over a bar of that length."""
    if share is None:
        return percent(share)
    return f'{percent(share)}<span class="bar" aria-hidden="true"><i style="width:{100 * share:.0f}%"></i></span>'
