"""What ``fewshot discover`` tells on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from ..shared.output import BOX
from ..shared.tables import describe_features, fact_lines
from ..shared.words import percent
from .files import REPORT
from .page import headline, lead

__all__ = ["discovery_report"]

_N_SHOWN = 20


def discovery_report(document: Mapping[str, Any]) -> list[RenderableType]:
    """Return the answer, the largest new classes, the scores if there are any, and where to look."""
    facts = [("rows", document["protocol"]), ("method", document["method"])]
    facts.append(("features", describe_features(document["features"])))
    if document["scores"] is not None:
        facts += [("score", words) for words in _scores(document["scores"])]
    facts.append(("look at", f"{document['out']}/{REPORT}"))
    if document["settings"]["export"] is not None:
        facts.append(("folders", document["settings"]["export"]))
    new = [row for row in document["classes"] if not row["is_known"]]
    table = [_table(new)] if new else []
    return [headline(document), lead(document), *table, *fact_lines(facts)]


def _table(classes: list[Mapping[str, Any]]) -> Table:
    table = Table(box=BOX)
    table.add_column("new class")
    for name in ("rows", "how sure"):
        table.add_column(name, justify="right")
    table.add_column("nearest known class")
    for row in classes[:_N_SHOWN]:
        sure = percent(row["mean_probability"])
        table.add_row(row["name"], f"{row['n_unlabelled']:,}", sure, row["nearest_known"] or "")
    if len(classes) > _N_SHOWN:
        table.add_row(f"and {len(classes) - _N_SHOWN:,} more", "", "", "")
    return table


def _scores(scores: Mapping[str, Any]) -> list[str]:
    """Say the figures of a table of category discovery."""
    shares = scores["accuracy"]["v2"]
    parts = [f"{name} {_points(shares[key])}" for name, key in (("all", "all"), ("known", "old"), ("new", "new"))]
    found, true, error = scores["n_found"], scores["n_classes"], 100 * scores["n_classes_error"]
    return [
        f"accuracy {', '.join(parts)} of the {scores['n_scored']:,} unlabelled rows",
        f"classes {found:,} found, {true:,} are there: off by {error:.1f} %",
    ]


def _points(share: float | None) -> str:
    return "undefined" if share is None else f"{100 * share:.2f} %"
