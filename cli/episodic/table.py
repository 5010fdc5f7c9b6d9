"""Results on few-shot episodes as tables and lines for people."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from math import isnan
from typing import TypeVar

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fewshot.evaluation.episode_runs import EpisodeDifference, EpisodeRecord
from fewshot.evaluation.fitted_methods import FittedMethod

from ..shared.output import BOX
from ..shared.tables import fact_lines
from ..shared.words import counted

__all__ = ["episode_report", "fitted_words"]

Regime = tuple[str | None, int | None]
Row = TypeVar("Row", EpisodeRecord, EpisodeDifference)
Key = TypeVar("Key", bound=Hashable)


def episode_report(
    records: Sequence[EpisodeRecord],
    differences: Sequence[EpisodeDifference],
    features: str,
    fitted: Sequence[tuple[str, str]],
) -> list[RenderableType]:
    """Return a block for each distribution of the queries, and the foundation of the numbers.

    Parameters
    ----------
    records, differences
        Of all runs.
    features
        Words on the features.
    fitted
        Labels and sentences about fitted methods.
    """
    marks = "; * the best, † not told from it" if differences else ""
    n_episodes = records[0].n_episodes
    report: list[RenderableType] = [f"Accuracy in %, mean ± 95 % interval over {n_episodes:,} episodes{marks}"]
    regimes = _distinct(record.regime for record in records)
    for regime in regimes:
        title = [] if len(regimes) == 1 else [Text(_regime_words(regime), style="bold underline")]
        report += [*title, *_block(_of(records, regime), _of(differences, regime))]
    return [*report, *fact_lines(_facts(records, features, fitted))]


def _block(records: list[EpisodeRecord], differences: list[EpisodeDifference]) -> list[RenderableType]:
    if not differences:
        return [_accuracy_table(records)]
    title = f"Difference to {differences[0].against} on the same episodes, in points"
    return [_accuracy_table(records), title, _difference_table(differences)]


def _accuracy_table(records: list[EpisodeRecord]) -> Table:
    table = _shot_table(records)
    table.add_column("episodes/s", justify="right")
    methods = _grouped(records, lambda record: record.method)
    for method, rows in methods.items():
        cells = [_accuracy(row, records, is_marked=len(methods) > 1) for row in rows]
        speed = sum(row.n_episodes for row in rows) / sum(row.seconds for row in rows)
        table.add_row(method, *cells, f"{speed:,.0f}")
    return table


def _accuracy(record: EpisodeRecord, records: list[EpisodeRecord], *, is_marked: bool) -> Text:
    """Write an accuracy, with a mark if it is the best of its column or cannot be told from it."""
    is_best = record.accuracy == max(other.accuracy for other in records if other.n_shot == record.n_shot)
    mark = "* " if is_best else "† " if record.behind_best.is_tie else ""
    number = _percent(record.accuracy, record.half_width)
    return Text.assemble(mark if is_marked else "", (number, "bold" if is_best else ""))


def _difference_table(differences: list[EpisodeDifference]) -> Table:
    table = _shot_table(differences)
    for method, rows in _grouped(differences, lambda difference: difference.method).items():
        table.add_row(method, *[_percent(row.mean, row.half_width, sign="+") for row in rows])
    return table


def _shot_table(rows: Sequence[EpisodeRecord] | Sequence[EpisodeDifference]) -> Table:
    table = Table(box=BOX)
    table.add_column("method", overflow="fold")
    for n_shot in _distinct(row.n_shot for row in rows):
        table.add_column("accuracy" if n_shot is None else f"{n_shot}-shot", justify="right")
    return table


def _percent(mean: float, half_width: float, *, sign: str = "") -> str:
    interval = "± ?" if isnan(half_width) else f"± {100 * half_width:.2f}"
    return f"{100 * mean:{sign}.2f} {interval}"


def _facts(
    records: Sequence[EpisodeRecord], features: str, fitted: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Yield labels and sentences."""
    runs = [rows[0] for rows in _grouped(records, lambda record: (record.regime, record.n_shot)).values()]
    for run in runs:
        yield "protocol", f"{run.protocol} (episodes {run.episode_hash})"
    yield "features", features
    for method, rows in _grouped(records, lambda record: record.method).items():
        yield "methods", f"{method}: {rows[0].settings}"
    yield from fitted
    for run in runs:
        yield from _draw_facts(run, _place(run, runs))
    for record in records:
        for warning in record.warnings:
            yield "warning", f"{_result_words(record, records)}: {warning}"


def _draw_facts(run: EpisodeRecord, place: str) -> Iterator[tuple[str, str]]:
    """Yield the shortcomings of a run's draws."""
    if run.n_leaked:
        yield "leaked", _leak_line(run, place)
    if run.skipped_classes:
        names = ", ".join(run.skipped_classes)
        yield "skipped", f"{len(run.skipped_classes)} classes with too few items{place}: {names}"


def _leak_line(run: EpisodeRecord, place: str) -> str:
    share, episodes = 100 * run.n_leaked / run.n_queries, 100 * run.n_leaking_episodes / run.n_episodes
    return (
        f"{run.n_leaked:,} of {run.n_queries:,} queries ({share:.1f} %) are also support images{place}: in "
        f"{counted(run.n_leaking_episodes, 'episode', 'episodes')} of {run.n_episodes:,} ({episodes:.1f} %)"
    )


def _place(run: EpisodeRecord, runs: Sequence[EpisodeRecord]) -> str:
    """Name one of several runs."""
    parts = _regime_part(run, runs)
    parts += [f"{run.n_shot}-shot"] if len({other.n_shot for other in runs}) > 1 else []
    return f" at {', '.join(parts)}" if parts else ""


def _result_words(record: EpisodeRecord, records: Sequence[EpisodeRecord]) -> str:
    """Name the method and run of a result."""
    shots = [] if record.n_shot is None else [f"{record.n_shot}-shot"]
    return ", ".join([record.method, *shots, *_regime_part(record, records)])


def _regime_part(record: EpisodeRecord, records: Sequence[EpisodeRecord]) -> list[str]:
    """Name the regime if there are several."""
    return [_regime_words(record.regime)] if len({other.regime for other in records}) > 1 else []


def _regime_words(regime: Regime) -> str:
    return f"{regime[0]}, {counted(regime[1] or 0, 'way', 'ways')} with queries"


def fitted_words(fitted: FittedMethod, class_names: Sequence[str]) -> str:
    """Return where a fitted method comes from, and how many of its classes are evaluated."""
    n_classes, n_seen = len(fitted.class_names), len(set(fitted.seen_classes(class_names)))
    verb = "trained" if fitted.kind == "trained" else "chosen"
    told = f"{verb} on {n_classes:,} classes" if n_classes else "the classes they were trained on are not recorded"
    seen = f"; {n_seen} evaluated classes carry names of these (--allow-seen-classes)" if n_seen else ""
    return f"{fitted.file}: {told}{seen}"


def _of(rows: Sequence[Row], regime: Regime) -> list[Row]:
    return [row for row in rows if row.regime == regime]


def _grouped(rows: Sequence[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Return rows by a key, in the order of its first appearance."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _distinct(values: Iterable[Key]) -> list[Key]:
    """Return values in the order of their first appearance."""
    return list(dict.fromkeys(values))
