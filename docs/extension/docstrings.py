"""Docstrings as they are written, made valid reStructuredText.

The library's docstrings write formulas as papers do: an equation is an indented block, ``|Q|`` is the size of a set,
``classes_`` a fitted name and ``[UNEM]`` a key of the reference list. Sphinx would reflow the first and stumble over
the others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from docs.extension.references import target

__all__ = ["as_rst"]

_LITERAL = re.compile(r"(``.*?``)")
# Bars of |Q|, and the last letter of a fitted name such as classes_.
_MARKUP = re.compile(r"\||(?<=\w)_(?!\w)")
_KEY = re.compile(r"\[([A-Z]{2,})\](?!_)")


def as_rst(lines: Sequence[str], keys: Collection[str] = ()) -> list[str]:
    r"""Return the lines with indented blocks as literal blocks, bars and underscores as such, and known keys as links.

    Examples
    --------
    >>> print(*as_rst(["Minimise over |Q| queries of classes_ [TIM]", "", "    J = |u|"], ["TIM"]), sep="\n")
    Minimise over \|Q\| queries of classes\_ :ref:`[TIM] <ref-tim>`
    <BLANKLINE>
    ::
    <BLANKLINE>
        J = |u|
    """
    rst: list[str] = []
    outside = 0  # the indentation of the text around a literal block
    is_literal = False
    for line in lines:
        if is_literal and line.strip() and _indent(line) <= outside:
            is_literal = False
        if not is_literal and _opens_block(line, rst):
            above = _last_text(rst)
            outside, is_literal = _indent(above), True
            if not above.endswith("::"):
                rst += [" " * outside + "::", ""]
        is_verbatim = is_literal or line.lstrip().startswith((">>>", "..."))
        rst.append(line if is_verbatim else _inline(line, keys))
    return rst


def _opens_block(line: str, above: Sequence[str]) -> bool:
    """Whether a line starts an indented block: four spaces or more to the right of what stands above the gap."""
    if not line.strip() or not above or above[-1].strip():
        return False
    return _indent(line) >= _indent(_last_text(above)) + 4


def _last_text(lines: Sequence[str]) -> str:
    return next((line for line in reversed(lines) if line.strip()), "")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _inline(line: str, keys: Collection[str]) -> str:
    parts = _LITERAL.split(line)
    parts[::2] = [_KEY.sub(lambda key: _link(key, keys), _MARKUP.sub(r"\\\g<0>", part)) for part in parts[::2]]
    return "".join(parts)


def _link(key: re.Match[str], keys: Collection[str]) -> str:
    return f":ref:`[{key[1]}] <{target(key[1])}>`" if key[1] in keys else key[0]
