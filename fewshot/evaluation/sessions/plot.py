"""Base, new and harmonic mean as lines over the sessions."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from fewshot.evaluation.sessions.experiment import SessionComparison
from fewshot.metrics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_sessions"]

_PANELS = {"base": "base classes", "new": "new classes", "harmonic_mean": "harmonic mean"}
_STYLES = ("-", "--", ":", "-.")


def draw_sessions(comparison: SessionComparison, path: str) -> None:
    """Draw a row of panels for each number of shots: a line a method, the 95 % interval shaded.

    Parameters
    ----------
    comparison : SessionComparison
    path : str
        A picture of matplotlib, such as ``sessions.svg``.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    shots = list(dict.fromkeys(run.n_shot for run in comparison.runs))
    figure = Figure(figsize=(12, 0.8 + 3.4 * len(shots)), layout="constrained")
    grid = figure.subplots(len(shots), len(_PANELS), squeeze=False, sharex=True, sharey="row")
    for n_shot, row_of_axes in zip(shots, grid, strict=True):
        scores = {run.method: run.results.mean_interval() for run in comparison.runs if run.n_shot == n_shot}
        for (name, title), axes in zip(_PANELS.items(), row_of_axes, strict=True):
            for number, (method, intervals) in enumerate(scores.items()):
                _line(axes, method, intervals[name], number)
            axes.set(title=title if n_shot is None else f"{title}, {n_shot}-shot", xlabel="session")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
        row_of_axes[0].set_ylabel("mean recall in %")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    figure.savefig(path, dpi=150)


def _line(axes: Axes, method: str, intervals: tuple[Interval, ...], number: int) -> None:
    """Draw a method's score over the sessions in which it is defined."""
    points = [
        (session, 100 * mean, 0 if isnan(half_width) else 100 * half_width)
        for session, (mean, half_width) in enumerate(intervals)
        if not isnan(mean)
    ]
    sessions, means, widths = (list(column) for column in zip(*points, strict=True))
    color, style = f"C{number % 10}", _STYLES[number // 10 % len(_STYLES)]
    axes.plot(sessions, means, color=color, linestyle=style, marker="o", markersize=3, label=method)
    low, high = ([mean + sign * width for mean, width in zip(means, widths, strict=True)] for sign in (-1, 1))
    if len(points) > 1:
        axes.fill_between(sessions, low, high, color=color, alpha=0.2, linewidth=0)
    else:
        axes.errorbar(sessions, means, widths, color=color, capsize=4)
