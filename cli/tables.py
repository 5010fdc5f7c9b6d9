"""A command's document as tables and lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cli.output import BOX

__all__ = ["describe_features", "episode_report", "fact_lines", "training_report"]

_LEARNED = ("λ/|Q|", "T")
Row = Mapping[str, Any]


def episode_report(document: Row) -> list[RenderableType]:
    """Return the accuracies, the paired differences if there are several methods, and what they stand on."""
    results, differences = document["results"], document["differences"]
    n_episodes = results[0]["n_episodes"]
    report: list[RenderableType] = [f"Accuracy in %, mean ± 95 % interval over {n_episodes:,} episodes"]
    report.append(_accuracy_table(results))
    if differences:
        report.append(f"Difference to {differences[0]['against']} on the same episodes, in points")
        report.append(_difference_table(differences, results))
    return [*report, *fact_lines(_facts(document))]


def _accuracy_table(results: list[Row]) -> Table:
    table = _shot_table(results)
    table.add_column("episodes/s", justify="right")
    best = {row["n_shot"]: max(other["accuracy"] for other in _at(results, row["n_shot"])) for row in results}
    for name in _distinct(results, "method"):
        rows = [row for row in results if row["method"] == name]
        cells = [
            _percent(row["accuracy"], row["half_width"], is_best=row["accuracy"] == best[row["n_shot"]]) for row in rows
        ]
        speed = sum(row["n_episodes"] for row in rows) / sum(row["seconds"] for row in rows)
        table.add_row(name, *cells, f"{speed:,.0f}")
    return table


def _difference_table(differences: list[Row], results: list[Row]) -> Table:
    table = _shot_table(results)
    for name in _distinct(differences, "method"):
        rows = [row for row in differences if row["method"] == name]
        table.add_row(name, *[_percent(row["mean"], row["half_width"], sign="+") for row in rows])
    return table


def _shot_table(results: list[Row]) -> Table:
    table = Table(box=BOX)
    table.add_column("method", overflow="fold")
    for n_shot in _distinct(results, "n_shot"):
        table.add_column("accuracy" if n_shot is None else f"{n_shot}-shot", justify="right")
    return table


def _percent(mean: float, half_width: float, *, is_best: bool = False, sign: str = "") -> Text:
    interval = f"± {100 * half_width:.2f}" if half_width == half_width else "± ?"
    return Text(f"{100 * mean:{sign}.2f} {interval}", style="bold" if is_best else "")


def _facts(document: Row) -> Iterable[tuple[str, str]]:
    """Yield labels and sentences."""
    results, features = document["results"], document["features"]
    runs = [_at(results, n_shot)[0] for n_shot in _distinct(results, "n_shot")]
    for run in runs:
        yield "protocol", f"{run['protocol']} (episodes {run['episode_hash']})"
    yield "features", describe_features(features)
    for row in _at(results, runs[0]["n_shot"]):
        yield "methods", f"{row['method']}: {row['settings']}"
    if document["weights"] is not None:
        yield "weights", _weights_line(document["weights"])
    for run in runs:
        shots = f" at {run['n_shot']}-shot" if len(runs) > 1 else ""
        if run["n_leaked"]:
            share = 100 * run["n_leaked"] / run["n_queries"]
            yield (
                "leaked",
                f"{run['n_leaked']:,} of {run['n_queries']:,} queries ({share:.1f} %) are also support images{shots}",
            )
        if run["skipped_classes"]:
            yield (
                "skipped",
                f"{len(run['skipped_classes'])} classes with too few items{shots}: {', '.join(run['skipped_classes'])}",
            )
    for row in results:
        shots = "" if row["n_shot"] is None else f", {row['n_shot']}-shot"
        for warning in row["warnings"]:
            yield "warning", f"{row['method']}{shots}: {warning}"


def describe_features(features: Row) -> str:
    """Say in one line which features were used."""
    n, n_classes, n_features = (features[name] for name in ("n", "n_classes", "n_features"))
    return f"{features['name']}: {n:,} rows, {n_classes:,} classes, {n_features:,} features"


def _weights_line(weights: Row) -> str:
    n_classes, n_seen = len(weights["training"].get("class_names", [])), len(weights["seen_classes"])
    trained = f"trained on {n_classes:,} classes" if n_classes else "the classes they were trained on are not recorded"
    seen = f"; {n_seen} evaluated classes carry names of these (--allow-seen-classes)" if n_seen else ""
    return f"{weights['file']}: {trained}{seen}"


def training_report(document: Row) -> list[RenderableType]:
    """Return the learned schedule, how the training went, and how to use what it wrote."""
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


def fact_lines(facts: Iterable[tuple[str, str]]) -> list[Text]:
    """Return one line a fact; a label stands once."""
    lines, previous = [], ""
    for label, words in facts:
        lines.append(Text(f"  {'' if label == previous else label:<10}{words}"))
        previous = label
    return lines


def _at(rows: list[Row], n_shot: int | None) -> list[Row]:
    return [row for row in rows if row["n_shot"] == n_shot]


def _distinct(rows: list[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))
