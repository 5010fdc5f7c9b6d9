"""Probes as a table and lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from fewshot.evaluation.probes import ProbeComparison, ProbeRun

from ..shared.output import BOX
from ..shared.tables import fact_lines, pool_words

__all__ = ["probe_report"]

_COLUMNS = {
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean per class",
    "rank_1": "Rank-1",
    "rank_5": "Rank-5",
    "mean_average_precision": "mAP",
    "recall_at_4": "recall@4",
}


def probe_report(comparison: ProbeComparison, features: str, test: str | None) -> list[RenderableType]:
    """Return the scores of the probes and their foundation, with the names of the features."""
    return ["In %, on the test rows", _table(comparison.runs), *fact_lines(_facts(comparison, features, test))]


def _table(runs: Sequence[ProbeRun]) -> Table:
    shown = [name for name in _COLUMNS if any(name in run.scores for run in runs)]
    table = Table(box=BOX)
    table.add_column("method")
    for name in shown:
        table.add_column(_COLUMNS[name], justify="right")
    for run in runs:
        label = f"{run.method}, k = {run.options['k']}" if "k" in run.options else run.method
        table.add_row(label, *[f"{100 * run.scores[name]:.2f}" if name in run.scores else "" for name in shown])
    return table


def _facts(comparison: ProbeComparison, features: str, test: str | None) -> Iterator[tuple[str, str]]:
    """Yield labels and sentences."""
    yield "protocol", comparison.protocol(features, str(test))
    yield "training", pool_words(features, comparison.train)
    yield "test", pool_words(test or features, comparison.test)
    yield "features", f"{comparison.post} (what is learned, from the training rows)"
    for method, words in dict.fromkeys((run.method, run.settings) for run in comparison.runs):
        yield "methods", f"{method}: {words}"
