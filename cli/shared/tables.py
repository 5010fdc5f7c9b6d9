"""Facts as lines for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from fewshot.features import FeatureSet

__all__ = ["fact_lines", "pool_words"]

_LABEL_WIDTH = 12


def pool_words(name: str, pool: FeatureSet) -> str:
    """Return one line about features."""
    n, n_features = pool.features.shape
    return f"{name}: {n:,} rows, {pool.n_classes:,} classes, {n_features:,} features"


def fact_lines(facts: Iterable[tuple[str, str]]) -> list[Table]:
    """Return one line a fact, wrapped under its words where the screen is narrow; a label stands once."""
    lines, previous = Table.grid(padding=0), ""
    lines.add_column(no_wrap=True, min_width=_LABEL_WIDTH)
    lines.add_column(overflow="fold")
    for label, words in facts:
        lines.add_row(Text(f"  {'' if label == previous else label} "), Text(words))
        previous = label
    return [lines]
