"""The document of ``fewshot episode`` as tables and lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..shared.output import BOX
from ..shared.tables import describe_features, fact_lines
from ..shared.words import counted

__all__ = ["episode_report"]

Row = Mapping[str, Any]
Regime = tuple[str | None, int | None]


def episode_report(document: Row) -> list[RenderableType]:
    """Return a block for each way of drawing the queries, and the basis of the numbers."""
    results, differences = document["results"], document["differences"]
    n_episodes = results[0]["n_episodes"]
    marks = "; * the best, † not told from it" if differences else ""
    report: list[RenderableType] = [f"Accuracy in %, mean ± 95 % interval over {n_episodes:,} episodes{marks}"]
    regimes = _distinct(results, _regime)
    for regime in regimes:
        title = [] if len(regimes) == 1 else [Text(_regime_words(regime), style="bold underline")]
        report += [*title, *_block(_of(results, regime), _of(differences, regime))]
    return [*report, *fact_lines(_facts(document))]


def _block(results: list[Row], differences: list[Row]) -> list[RenderableType]:
    if not differences:
        return [_accuracy_table(results)]
    title = f"Difference to {differences[0]['against']} on the same episodes, in points"
    return [_accuracy_table(results), title, _difference_table(differences, results)]


def _accuracy_table(results: list[Row]) -> Table:
    table = _shot_table(results)
    table.add_column("episodes/s", justify="right")
    names = _distinct(results, _method)
    for name in names:
        rows = [row for row in results if row["method"] == name]
        cells = [_accuracy(row, results, is_marked=len(names) > 1) for row in rows]
        speed = sum(row["n_episodes"] for row in rows) / sum(row["seconds"] for row in rows)
        table.add_row(name, *cells, f"{speed:,.0f}")
    return table


def _accuracy(row: Row, results: list[Row], *, is_marked: bool) -> Text:
    """Write an accuracy, with a mark if it is the best of its column or cannot be told from it."""
    is_best = row["accuracy"] == max(other["accuracy"] for other in results if other["n_shot"] == row["n_shot"])
    mark = "* " if is_best else "† " if row["behind_best"]["is_tie"] else ""
    style = "bold" if is_best else ""
    return Text.assemble(mark if is_marked else "", (_percent(row["accuracy"], row["half_width"]), style))


def _difference_table(differences: list[Row], results: list[Row]) -> Table:
    table = _shot_table(results)
    for name in _distinct(differences, _method):
        rows = [row for row in differences if row["method"] == name]
        table.add_row(name, *[_percent(row["mean"], row["half_width"], sign="+") for row in rows])
    return table


def _shot_table(results: list[Row]) -> Table:
    table = Table(box=BOX)
    table.add_column("method", overflow="fold")
    for n_shot in _distinct(results, _n_shot):
        table.add_column("accuracy" if n_shot is None else f"{n_shot}-shot", justify="right")
    return table


def _percent(mean: float, half_width: float, *, sign: str = "") -> str:
    interval = f"± {100 * half_width:.2f}" if half_width == half_width else "± ?"
    return f"{100 * mean:{sign}.2f} {interval}"


def _facts(document: Row) -> Iterator[tuple[str, str]]:
    """Yield labels and sentences."""
    results = document["results"]
    runs = list({(*_regime(row), row["n_shot"]): row for row in reversed(results)}.values())[::-1]
    for run in runs:
        yield "protocol", f"{run['protocol']} (episodes {run['episode_hash']})"
    yield "features", describe_features(document["features"])
    yield from _method_facts(document)
    for run in runs:
        yield from _draw_facts(run, _place(run, runs))
    for row in results:
        for warning in row["warnings"]:
            yield "warning", f"{_result_words(row, results)}: {warning}"


def _method_facts(document: Row) -> Iterator[tuple[str, str]]:
    """Yield the settings of the methods, and where fitted ones come from."""
    settings = {row["method"]: row["settings"] for row in reversed(document["results"])}
    for method in _distinct(document["results"], _method):
        yield "methods", f"{method}: {settings[method]}"
    if document["weights"] is not None:
        yield "weights", _weights_line(document["weights"])
    for tuned in document["tuned"]:
        yield "tuned", _tuned_line(tuned)


def _draw_facts(run: Row, place: str) -> Iterator[tuple[str, str]]:
    """Yield the shortcomings of a run's draws."""
    if run["n_leaked"]:
        yield "leaked", _leak_line(run, place)
    if run["skipped_classes"]:
        names = ", ".join(run["skipped_classes"])
        yield "skipped", f"{len(run['skipped_classes'])} classes with too few items{place}: {names}"


def _result_words(row: Row, results: list[Row]) -> str:
    """Name the method and run of a result, the regime only if there are several."""
    parts = [row["method"], *([] if row["n_shot"] is None else [f"{row['n_shot']}-shot"])]
    parts += [_regime_words(_regime(row))] if len(_distinct(results, _regime)) > 1 else []
    return ", ".join(parts)


def _place(run: Row, runs: list[Row]) -> str:
    """Name one of several runs."""
    several_shots = len(_distinct(runs, _n_shot)) > 1
    parts = [_regime_words(_regime(run))] if len(_distinct(runs, _regime)) > 1 else []
    parts += [f"{run['n_shot']}-shot"] if several_shots else []
    return f" at {', '.join(parts)}" if parts else ""


def _leak_line(run: Row, place: str) -> str:
    share, episodes = 100 * run["n_leaked"] / run["n_queries"], 100 * run["n_leaking_episodes"] / run["n_episodes"]
    return (
        f"{run['n_leaked']:,} of {run['n_queries']:,} queries ({share:.1f} %) are also support images{place}: in "
        f"{counted(run['n_leaking_episodes'], 'episode', 'episodes')} of {run['n_episodes']:,} ({episodes:.1f} %)"
    )


def _weights_line(weights: Row) -> str:
    n_classes, n_seen = len(weights["training"].get("class_names", [])), len(weights["seen_classes"])
    trained = f"trained on {n_classes:,} classes" if n_classes else "the classes they were trained on are not recorded"
    seen = f"; {n_seen} evaluated classes carry names of these (--allow-seen-classes)" if n_seen else ""
    return f"{weights['file']}: {trained}{seen}"


def _tuned_line(tuned: Row) -> str:
    n_seen = len(tuned["seen_classes"])
    seen = f"; {n_seen} evaluated classes carry names of these (--allow-seen-classes)" if n_seen else ""
    return f"{tuned['file']}: chosen on {tuned['n_classes']:,} classes{seen}"


def _regime(row: Row) -> Regime:
    return row["query_distribution"], row["n_effective_way"]


def _regime_words(regime: Regime) -> str:
    return f"{regime[0]}, {counted(regime[1] or 0, 'way', 'ways')} with queries"


def _of(rows: list[Row], regime: Regime) -> list[Row]:
    return [row for row in rows if _regime(row) == regime]


def _method(row: Row) -> str:
    return f"{row['method']}"


def _n_shot(row: Row) -> int | None:
    found: int | None = row["n_shot"]
    return found


def _distinct(rows: list[Row], key: Any) -> list[Any]:
    return list(dict.fromkeys(key(row) for row in rows))
