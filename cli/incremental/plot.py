"""The picture of ``fewshot calibrate``: base, new and harmonic mean, session by session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["check_plot", "draw_sessions"]

_SUFFIXES = (".svg", ".png", ".pdf")
_PANELS = {"base": "base classes", "new": "new classes", "harmonic_mean": "harmonic mean"}
_STYLES = ("-", "--", ":", "-.")
Row = Mapping[str, Any]


def check_plot(path: str) -> None:
    """Check that a picture can be drawn, before the work.

    Raises
    ------
    ValueError
        If the file's name ends in no known way.
    ImportError
        If matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in _SUFFIXES:
        raise ValueError(f"--plot draws {', '.join(_SUFFIXES)}, got {path!r}: name one of these")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError('--plot is drawn by matplotlib: pip install "fewshot[plots]"') from error


def draw_sessions(document: Row, path: str) -> None:
    """Draw a row of panels for each number of shots: a line a method, the 95 % interval shaded."""
    from matplotlib.figure import Figure

    shots = list(dict.fromkeys(row["n_shot"] for row in document["results"]))
    figure = Figure(figsize=(12, 0.8 + 3.4 * len(shots)), layout="constrained")
    grid = figure.subplots(len(shots), len(_PANELS), squeeze=False, sharex=True, sharey="row")
    for n_shot, row_of_axes in zip(shots, grid, strict=True):
        rows = [row for row in document["results"] if row["n_shot"] == n_shot]
        for (name, title), axes in zip(_PANELS.items(), row_of_axes, strict=True):
            for number, row in enumerate(rows):
                _line(axes, row, name, number)
            axes.set(title=title if n_shot is None else f"{title}, {n_shot}-shot", xlabel="session")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
        row_of_axes[0].set_ylabel("mean recall in %")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    figure.savefig(path, dpi=150)


def _line(axes: Axes, row: Row, name: str, number: int) -> None:
    """Draw a method's score over the sessions in which it is defined."""
    points = [
        (session, 100 * interval["mean"], 100 * (interval["half_width"] or 0))
        for session, interval in enumerate(row["per_session"][name])
        if interval["mean"] is not None
    ]
    sessions, means, widths = (list(column) for column in zip(*points, strict=True))
    colour, style = f"C{number % 10}", _STYLES[number // 10 % len(_STYLES)]
    axes.plot(sessions, means, color=colour, linestyle=style, marker="o", markersize=3, label=row["method"])
    low, high = ([mean + sign * width for mean, width in zip(means, widths, strict=True)] for sign in (-1, 1))
    if len(points) > 1:
        axes.fill_between(sessions, low, high, color=colour, alpha=0.2, linewidth=0)
    else:
        axes.errorbar(sessions, means, widths, color=colour, capsize=4)
