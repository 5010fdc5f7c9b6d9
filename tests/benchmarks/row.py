"""What a benchmark prints."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table; ``is_reached`` is None where there is no target."""

    what: str
    measured: str
    target: str
    is_reached: bool | None
