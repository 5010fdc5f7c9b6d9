"""Session comparisons as tables and lines for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import isnan
from typing import NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fewshot.evaluation.sessions import SessionComparison, SessionRun
from fewshot.metrics import Interval

from ..shared.output import BOX
from ..shared.tables import fact_lines

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


class _Scored(NamedTuple):
    """A run, and its means and intervals session by session and over all sessions."""

    run: SessionRun
    per_session: dict[str, tuple[Interval, ...]]
    summary: dict[str, Interval]


_SUMMARY: dict[str, Callable[[_Scored], Interval]] = {
    "average accuracy": lambda scored: scored.summary["average_accuracy"],
    "performance drop": lambda scored: scored.summary["performance_drop"],
    "average harmonic mean": lambda scored: scored.summary["average_harmonic_mean"],
    "last base": lambda scored: scored.per_session["base"][-1],
    "last new": lambda scored: scored.per_session["new"][-1],
    "last harmonic mean": lambda scored: scored.per_session["harmonic_mean"][-1],
    "AUROC unknown": lambda scored: scored.run.average_auroc,
}
_LOW_IS_GOOD = "performance drop"


def calibrate_report(
    comparison: SessionComparison, protocol: str, facts: Sequence[tuple[str, str]], plot: str | None
) -> list[RenderableType]:
    """Return a table a method, their summary and paired differences, and their foundation.

    Parameters
    ----------
    comparison
    protocol
        The protocol in clauses separated by semicolons.
    facts
        Labels and sentences about the features.
    plot
        The picture that was drawn.
    """
    scored = [_Scored(run, run.results.mean_interval(), run.results.summary_interval()) for run in comparison.runs]
    report: list[RenderableType] = [f"In %, {_over(comparison.runs[0].results.n_draws)}"]
    for each in scored:
        report += [f"{each.run.method}{_at(each.run)}", _session_table(each)]
    for n_shot in dict.fromkeys(run.n_shot for run in comparison.runs):
        rows = [each for each in scored if each.run.n_shot == n_shot]
        report += [f"Over all sessions{_at(rows[0].run)}", _summary_table(rows)]
    lines = [*_protocol_facts(comparison, protocol), *facts, *_method_facts(comparison)]
    drawn = [] if plot is None else [("plot", plot)]
    return [*report, *_difference_part(comparison), *fact_lines([*lines, *drawn])]


def _over(n_draws: int) -> str:
    return "one draw" if n_draws == 1 else f"mean ± 95 % interval over {n_draws:,} draws"


def _at(run: SessionRun) -> str:
    return "" if run.n_shot is None else f", {run.n_shot}-shot"


def _session_table(scored: _Scored) -> Table:
    table = Table(box=BOX)
    for name in ("session", "classes", *_SCORES.values()):
        table.add_column(name, justify="right")
    n_seen = list(accumulate(scored.run.results.n_new_classes.tolist()))
    for session in _shown(scored.run.results.n_sessions):
        cells = [_percent(scored.per_session[name][session]) for name in _SCORES]
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


def _summary_table(rows: list[_Scored]) -> Table:
    table = Table(box=BOX)
    table.add_column("method", overflow="fold")
    for name in _SUMMARY:
        table.add_column(name, justify="right")
    best = {name: _best(name, rows) for name in _SUMMARY}
    for row in rows:
        found = {name: value(row) for name, value in _SUMMARY.items()}
        cells = [_percent(value, is_best=value.mean == best[name]) for name, value in found.items()]
        table.add_row(row.run.method, *cells)
    return table


def _best(name: str, rows: list[_Scored]) -> float | None:
    """Return the best mean of a column, if there is anything to choose from."""
    means = [mean for mean in (_SUMMARY[name](row).mean for row in rows) if not isnan(mean)]
    if len(rows) < 2 or not means:
        return None
    return min(means) if name == _LOW_IS_GOOD else max(means)


def _difference_part(comparison: SessionComparison) -> list[RenderableType]:
    """Return the differences of the last harmonic means to the first method's; nothing if there is only that one."""
    last = {key: scores["harmonic_mean"][-1] for key, scores in comparison.differences().items()}
    if not last:
        return []
    shots, methods = (list(dict.fromkeys(names)) for names in zip(*last, strict=True))
    table = Table(box=BOX)
    table.add_column("method", overflow="fold")
    for n_shot in shots:
        table.add_column("difference" if n_shot is None else f"{n_shot}-shot", justify="right")
    for method in methods:
        table.add_row(f"{method}", *[_percent(last[n_shot, method], sign="+") for n_shot in shots])
    first = comparison.experiment.methods[0]
    title = f"Harmonic mean after the last session, difference to {first} on the same draws, in points"
    return [title, table]


def _percent(interval: Interval, *, is_best: bool = False, sign: str = "") -> Text:
    """Return a mean and its interval in percent; a dash for what is undefined, no interval of a single draw."""
    mean, half_width = interval
    if isnan(mean):
        return Text("-")
    width = "" if isnan(half_width) else f" ± {100 * half_width:.2f}"
    return Text(f"{100 * mean:{sign}.2f}{width}", style="bold" if is_best else "")


def _protocol_facts(comparison: SessionComparison, protocol: str) -> Iterator[tuple[str, str]]:
    for words in protocol.split("; "):
        yield "protocol", words
    yield "protocol", "session 0 is measured with the same classifier as the later ones"
    n_sessions = comparison.runs[0].results.n_sessions
    if n_sessions > _MOST_ROWS:
        yield "protocol", f"{_MOST_ROWS} of the {n_sessions:,} sessions are shown, --json has all"


def _method_facts(comparison: SessionComparison) -> Iterator[tuple[str, str]]:
    for method, words in dict.fromkeys((run.method, run.classifier) for run in comparison.runs):
        yield "methods", f"{method}: {words}"
