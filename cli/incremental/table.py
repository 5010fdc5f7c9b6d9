"""The document of ``fewshot calibrate`` as tables and lines for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..shared.output import BOX
from ..shared.tables import describe_features, fact_lines

__all__ = ["calibrate_report"]

_SCORES = {
    "overall": "overall",
    "base": "base",
    "new": "new",
    "harmonic_mean": "harmonic mean",
    "new_to_base_rate": "new→base",
    "base_to_new_rate": "base→new",
}
# Rows of a table; of more sessions, some are shown.
_MOST_ROWS = 12
Row = Mapping[str, Any]

_SUMMARY: dict[str, Callable[[Row], Row]] = {
    "average accuracy": lambda row: row["summary"]["average_accuracy"],
    "performance drop": lambda row: row["summary"]["performance_drop"],
    "average harmonic mean": lambda row: row["summary"]["average_harmonic_mean"],
    "last base": lambda row: row["per_session"]["base"][-1],
    "last new": lambda row: row["per_session"]["new"][-1],
    "last harmonic mean": lambda row: row["per_session"]["harmonic_mean"][-1],
    "AUROC unknown": lambda row: row["average_auroc"],
}
_LOW_IS_GOOD = "performance drop"


def calibrate_report(document: Row) -> list[RenderableType]:
    """Return a table a method, their summary and paired differences, and what these stand on."""
    results, differences = document["results"], document["differences"]
    n_draws = results[0]["n_draws"]
    report: list[RenderableType] = [f"In %, {_over(n_draws)}"]
    for row in results:
        report += [f"{row['method']}{_at(row)}", _session_table(row)]
    for n_shot in dict.fromkeys(row["n_shot"] for row in results):
        rows = [row for row in results if row["n_shot"] == n_shot]
        report += [f"Over all sessions{_at(rows[0])}", _summary_table(rows)]
    if differences:
        report.append(
            f"Harmonic mean after the last session, difference to {differences[0]['against']} on the same draws, in "
            "points"
        )
        report.append(_difference_table(differences))
    return [*report, *fact_lines(_facts(document))]


def _over(n_draws: int) -> str:
    return "one draw" if n_draws == 1 else f"mean ± 95 % interval over {n_draws:,} draws"


def _at(row: Row) -> str:
    return "" if row["n_shot"] is None else f", {row['n_shot']}-shot"


def _session_table(row: Row) -> Table:
    table = Table(box=BOX)
    for name in ("session", "classes", *_SCORES.values()):
        table.add_column(name, justify="right")
    n_seen = list(accumulate(row["n_new_classes"]))
    for session in _shown(row["n_sessions"]):
        cells = [_percent(row["per_session"][name][session]) for name in _SCORES]
        table.add_row(f"{session}", f"{n_seen[session]:,}", *cells)
    return table


def _shown(n_sessions: int) -> list[int]:
    """Return all sessions, or evenly spaced ones with the first and the last.

    Examples
    --------
    >>> _shown(3)
    [0, 1, 2]
    >>> _shown(101)
    [0, 9, 18, 27, 36, 45, 55, 64, 73, 82, 91, 100]
    """
    n_rows = min(n_sessions, _MOST_ROWS)
    return sorted({round(row * (n_sessions - 1) / max(1, n_rows - 1)) for row in range(n_rows)})


def _summary_table(rows: list[Row]) -> Table:
    table = Table(box=BOX)
    table.add_column("method", overflow="fold")
    for name in _SUMMARY:
        table.add_column(name, justify="right")
    best = {name: _best(name, rows) for name in _SUMMARY}
    for row in rows:
        found = {name: value(row) for name, value in _SUMMARY.items()}
        cells = [_percent(value, is_best=value["mean"] == best[name]) for name, value in found.items()]
        table.add_row(row["method"], *cells)
    return table


def _best(name: str, rows: list[Row]) -> float | None:
    """Return the best mean of a column, if there is anything to choose from."""
    found = (_SUMMARY[name](row)["mean"] for row in rows)
    means: list[float] = [mean for mean in found if mean is not None and mean == mean]
    if len(rows) < 2 or not means:
        return None
    return min(means) if name == _LOW_IS_GOOD else max(means)


def _difference_table(differences: list[Row]) -> Table:
    table = Table(box=BOX)
    table.add_column("method", overflow="fold")
    shots = list(dict.fromkeys(row["n_shot"] for row in differences))
    for n_shot in shots:
        table.add_column("difference" if n_shot is None else f"{n_shot}-shot", justify="right")
    for name in dict.fromkeys(row["method"] for row in differences):
        rows = {row["n_shot"]: row for row in differences if row["method"] == name}
        cells = [_percent(rows[n_shot]["per_session"]["harmonic_mean"][-1], sign="+") for n_shot in shots]
        table.add_row(name, *cells)
    return table


def _percent(interval: Row, *, is_best: bool = False, sign: str = "") -> Text:
    """Return a mean and its interval in percent; a dash for what is undefined, no interval of a single draw."""
    mean, half_width = interval["mean"], interval["half_width"]
    if mean is None or mean != mean:
        return Text("-")
    width = "" if half_width is None or half_width != half_width else f" ± {100 * half_width:.2f}"
    return Text(f"{100 * mean:{sign}.2f}{width}", style="bold" if is_best else "")


def _facts(document: Row) -> Iterable[tuple[str, str]]:
    """Yield labels and sentences."""
    for words in document["protocol"].split("; "):
        yield "protocol", words
    yield "protocol", "session 0 is measured with the same classifier as the later ones"
    n_sessions = document["results"][0]["n_sessions"]
    if n_sessions > _MOST_ROWS:
        yield "protocol", f"{_MOST_ROWS} of the {n_sessions:,} sessions are shown, --json has all"
    yield "features", describe_features(document["features"])
    if document["test_features"] is not None:
        yield "test", describe_features(document["test_features"])
    for method, words in dict.fromkeys((row["method"], row["settings"]) for row in document["results"]):
        yield "methods", f"{method}: {words}"
    if document["settings"]["plot"] is not None:
        yield "plot", document["settings"]["plot"]
