"""The result of ``fewshot discover`` on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from fewshot.evaluation.discovery import ClassProfile, DiscoveryResult, DiscoveryScores

from ..shared.output import BOX
from ..shared.page import REPORT
from ..shared.tables import fact_lines, pool_words
from ..shared.words import percent
from .page import headline, lead

__all__ = ["discovery_report"]

_N_SHOWN = 20


def discovery_report(features: str, out: str, export: str | None, result: DiscoveryResult) -> list[RenderableType]:
    """Return the answer, the largest new classes, the scores if there are any, and where to look."""
    new = [profile for profile in result.classes if not profile.is_known]
    table = [_table(new)] if new else []
    return [headline(result), lead(result), *table, *fact_lines(_facts(features, out, export, result))]


def _facts(features: str, out: str, export: str | None, result: DiscoveryResult) -> Iterator[tuple[str, str]]:
    yield "rows", result.data.protocol
    yield "method", result.found.method
    yield "features", pool_words(features, result.data.pool)
    if result.scores is not None:
        yield from (("score", words) for words in _scores(result.scores))
    yield "look at", f"{out}/{REPORT}"
    if export is not None:
        yield "folders", export


def _table(classes: Sequence[ClassProfile]) -> Table:
    table = Table(box=BOX)
    table.add_column("new class")
    for name in ("rows", "how sure"):
        table.add_column(name, justify="right")
    table.add_column("nearest known class")
    for row in classes[:_N_SHOWN]:
        table.add_row(row.name, f"{row.n_unlabelled:,}", percent(row.mean_probability), row.nearest_known or "")
    if len(classes) > _N_SHOWN:
        table.add_row(f"and {len(classes) - _N_SHOWN:,} more", "", "", "")
    return table


def _scores(scores: DiscoveryScores) -> list[str]:
    """Return the accuracy and the error of the number of classes, as tables of category discovery have them."""
    accuracy = scores.accuracy["v2"]
    shares = (("all", accuracy.all), ("known", accuracy.old), ("new", accuracy.new))
    parts = [f"{name} {_points(float(share))}" for name, share in shares]
    return [
        f"accuracy {', '.join(parts)} of the {scores.n_scored:,} unlabelled rows",
        f"classes {scores.n_found:,} found, {scores.n_classes:,} are there: off by "
        f"{100 * scores.n_classes_error:.1f} %",
    ]


def _points(share: float) -> str:
    return "undefined" if share != share else f"{100 * share:.2f} %"
