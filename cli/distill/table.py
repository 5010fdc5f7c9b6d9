"""The document of ``fewshot distill`` as tables and lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from fewshot.distillation.training.health import Health

from ..shared.output import BOX
from ..shared.tables import fact_lines
from ..shared.words import counted

__all__ = ["distillation_report"]

_N_EPOCHS_SHOWN = 10
_DASH = "–"
_HEALTH = {"feature_spread": "spread", "effective_rank": "rank", "n_used_prototypes": "prototypes used"}
_SCORES = (
    ("knn", "accuracy", "k-NN"),
    ("svm", "accuracy", "linear SVM"),
    ("retrieval", "rank_1", "Rank-1"),
    ("retrieval", "rank_5", "Rank-5"),
    ("retrieval", "mean_average_precision", "mAP"),
)
Row = Mapping[str, Any]


def distillation_report(document: Row) -> list[RenderableType]:
    """Return how the losses and the features went, what they are worth, and how to use them."""
    parts: list[RenderableType] = ["Means over an epoch", _epoch_table(document["epochs"])]
    if document["scores"] is not None:
        parts += ["In %, before and after", _score_table(document["scores"])]
    return [*parts, *fact_lines(_facts(document))]


def _epoch_table(epochs: list[Row]) -> Table:
    names = [name for name in epochs[-1] if name not in ("epoch", *Health._fields)]
    table = Table(box=BOX)
    for name in ("epoch", *(name.replace("_", " ") for name in names), *_HEALTH.values()):
        table.add_column(name, justify="right")
    for row in _spread_out(epochs):
        numbers = [_number(row[name], 3) for name in names]
        table.add_row(f"{row['epoch']:,}", *numbers, *(_number(row[name], 2) for name in _HEALTH))
    return table


def _spread_out(epochs: list[Row]) -> list[Row]:
    """Return the first, the last, and some evenly between."""
    n = len(epochs)
    if n <= _N_EPOCHS_SHOWN:
        return list(epochs)
    return [epochs[round(i * (n - 1) / (_N_EPOCHS_SHOWN - 1))] for i in range(_N_EPOCHS_SHOWN)]


def _number(value: float | None, digits: int) -> str:
    return _DASH if value is None or value != value else f"{value:.{digits}f}"


def _score_table(scores: Mapping[str, list[Row]]) -> Table:
    table = Table(box=BOX)
    table.add_column("")
    for _, _, label in _SCORES:
        table.add_column(label, justify="right")
    for when, rows in scores.items():
        by_method = {row["method"]: row for row in rows}
        table.add_row(when, *(_number(100 * by_method[method][key], 2) for method, key, _ in _SCORES))
    return table


def _facts(document: Row) -> Iterable[tuple[str, str]]:
    """Yield labels and sentences."""
    run, settings = document["run"], document["settings"]
    backbone = run["backbone"]
    yield "method", f"{settings['method']}, {backbone['name']} at {backbone['size']} pixels from {backbone['init']}"
    yield "images", f"{run['n_images']:,}, {counted(run['epochs'], 'epoch', 'epochs')} of {run['batch_size']} a step"
    if run["memory_bytes"]:
        yield "memory", f"queues and memories hold {_bytes(run['memory_bytes'])}"
    yield "speed", _speed(document)
    if document["protocol"] is not None:
        yield "scores", document["protocol"]
    yield "written", document["out"]
    yield "use it", document["next_command"]


def _bytes(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB" if number >= 2**20 else f"{number / 2**10:,.1f} KiB"


def _speed(document: Row) -> str:
    if document["images_per_second"] is None:
        return "nothing was left to do"
    share = 100 * document["seconds_waiting"] / document["seconds"]
    return (
        f"{document['images_per_second']:,.1f} images a second for {document['seconds']:,.1f} s, {share:.0f} % of them "
        "spent waiting for views"
    )
