"""Numbers as words."""

from __future__ import annotations

__all__ = ["counted", "percent"]


def counted(number: int, one: str, many: str) -> str:
    """Return a number and what it counts.

    Examples
    --------
    >>> counted(1, "class", "classes"), counted(1200, "class", "classes")
    ('1 class', '1,200 classes')
    """
    return f"{number:,} {one if number == 1 else many}"


def percent(share: float | None) -> str:
    """Return a share in per cent, one that is less than all never as 100 %; a dash for none.

    Examples
    --------
    >>> percent(0.5), percent(0.9999), percent(1.0), percent(None)
    ('50 %', '99 %', '100 %', '–')
    """
    return "–" if share is None or share != share else f"{int(100 * share + 1e-9)} %"
