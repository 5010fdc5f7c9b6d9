"""A command's document as tables and lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fewshot.features import FeatureSet

from .output import BOX

__all__ = ["describe_features", "fact_lines", "pool_words", "training_report"]

_LEARNED = ("λ/|Q|", "T")
_LABEL_WIDTH = 12
Row = Mapping[str, Any]


def describe_features(features: Row) -> str:
    """Describe the features in one line."""
    n, n_classes, n_features = (features[name] for name in ("n", "n_classes", "n_features"))
    return f"{features['name']}: {n:,} rows, {n_classes:,} classes, {n_features:,} features"


def pool_words(name: str, pool: FeatureSet) -> str:
    """Return one line about features."""
    n, n_features = pool.features.shape
    return f"{name}: {n:,} rows, {pool.n_classes:,} classes, {n_features:,} features"


def training_report(document: Row) -> list[RenderableType]:
    """Return the learned schedule, the course of the training, and how to use the file."""
    schedule, trace = document["schedule"], document["trace"]
    scales = [
        f"{scale:.3f}{_at_shots(n_shot, schedule)}"
        for n_shot, scale in zip(schedule["n_shot"], schedule["scale"], strict=True)
    ]
    facts = [
        ("scale", ", ".join(scales)),
        ("loss", f"{trace['loss'][0]:.4f} at first, {trace['loss'][-1]:.4f} at last"),
        (
            "accuracy",
            f"{100 * trace['accuracy'][0]:.2f} % at first, {100 * trace['accuracy'][-1]:.2f} % at last (training)",
        ),
        *(("episodes", words) for words in document["protocol"].split("; ")),
        ("features", describe_features(document["features"])),
        ("written", document["settings"]["out"]),
        ("use it", document["next_command"]),
    ]
    return ["Learned schedule", _schedule_table(schedule), *fact_lines(facts)]


def _schedule_table(schedule: Row) -> Table:
    table = Table(box=BOX)
    for name in (
        "layer",
        *(f"{letter}{_at_shots(n_shot, schedule)}" for n_shot in schedule["n_shot"] for letter in _LEARNED),
    ):
        table.add_column(name, justify="right")
    columns = [
        values for pair in zip(schedule["class_balance"], schedule["temperature"], strict=True) for values in pair
    ]
    for layer, row in enumerate(zip(*columns, strict=True), start=1):
        table.add_row(f"{layer}", *[f"{value:.3f}" for value in row])
    return table


def _at_shots(n_shot: int, schedule: Row) -> str:
    return f" at {n_shot}-shot" if len(schedule["n_shot"]) > 1 else ""


def fact_lines(facts: Iterable[tuple[str, str]]) -> list[Table]:
    """Return one line a fact, wrapped under its words where the screen is narrow; a label stands once."""
    lines, previous = Table.grid(padding=0), ""
    lines.add_column(no_wrap=True, min_width=_LABEL_WIDTH)
    lines.add_column(overflow="fold")
    for label, words in facts:
        lines.add_row(Text(f"  {'' if label == previous else label} "), Text(words))
        previous = label
    return [lines]
