"""The document of ``fewshot probe`` as a table and lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from ..shared.output import BOX
from ..shared.tables import describe_features, fact_lines

__all__ = ["probe_report"]

_COLUMNS = {
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean per class",
    "rank_1": "Rank-1",
    "rank_5": "Rank-5",
    "mean_average_precision": "mAP",
    "recall_at_4": "recall@4",
}
Row = Mapping[str, Any]


def probe_report(document: Row) -> list[RenderableType]:
    """Return the scores of each method, and their basis."""
    return ["In %, on the test rows", _table(document["results"]), *fact_lines(_facts(document))]


def _table(results: list[Row]) -> Table:
    shown = [name for name in _COLUMNS if any(name in row for row in results)]
    table = Table(box=BOX)
    table.add_column("method")
    for name in shown:
        table.add_column(_COLUMNS[name], justify="right")
    for row in results:
        label = f"{row['method']}, k = {row['k']}" if "k" in row else row["method"]
        table.add_row(label, *[f"{100 * row[name]:.2f}" if name in row else "" for name in shown])
    return table


def _facts(document: Row) -> Iterable[tuple[str, str]]:
    """Yield labels and sentences."""
    yield "protocol", document["protocol"]
    yield "training", describe_features(document["features"])
    yield "test", describe_features(document["test_features"])
    yield "features", f"{document['post']} (what is learned, from the training rows)"
    for method, words in dict.fromkeys((row["method"], row["settings"]) for row in document["results"]):
        yield "methods", f"{method}: {words}"
