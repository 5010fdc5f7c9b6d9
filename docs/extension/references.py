"""Keys of the reference list, and links to them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

__all__ = ["key_link", "reference_keys", "target"]

PAGE = Path(__file__).parents[1] / "references.md"


@cache
def reference_keys() -> frozenset[str]:
    """Return the keys of the reference list, such as UNEM or Wang et al. 2019."""
    return frozenset(re.findall(r"^\(ref-[\w-]+\)=\n\*\*\[(.+?)\]\*\*", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def target(key: str) -> str:
    """Return the anchor of a key.

    Examples
    --------
    >>> target("Wang et al. 2019")
    'ref-wang-et-al-2019'
    """
    return "ref-" + re.sub(r"\W+", "-", key.lower()).strip("-")


def key_link(key: str) -> str:
    """Return a link to a key in Markdown; what is no key, such as ``ours``, stays as it is."""
    return f"[{key}](#{target(key)})" if key in reference_keys() else key
