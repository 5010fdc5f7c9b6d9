"""The figure of ``fewshot report``: accuracy against the number of shots, a panel a feature set and kind of queries."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from fewshot.evaluation.reports.panels import Panel
from fewshot.evaluation.reports.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_drawing", "figure_svg"]

_STYLES = ("-", "--", ":", "-.")
# One picture for one set of results, whatever the day: ids in an SVG are otherwise random, and it holds the date.
_SETTINGS: Any = {"svg.hashsalt": "fewshot", "svg.fonttype": "none"}
_WITHOUT_DATE = {"Date": None, "Creator": None}


def check_drawing() -> None:
    """Check that there is something to draw with, before the work.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'figure.svg is drawn by matplotlib: pip install "fewshot[plots]", or leave it out with '
            "--format markdown,csv,latex"
        ) from error


def figure_svg(panels: Sequence[Panel]) -> str:
    """Draw a row of axes for each table, and in it one for each feature set."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        written = io.StringIO()
        _drawn(panels).savefig(written, format="svg", metadata=_WITHOUT_DATE)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def _drawn(panels: Sequence[Panel]) -> Figure:
    from matplotlib.figure import Figure

    sets = _distinct(name for panel in panels for name, _ in panel.columns)
    labels = _distinct(label for panel in panels for label in panel.rows)
    figure = Figure(figsize=(1.5 + 3.6 * len(sets), 1.2 + 3.0 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), len(sets), squeeze=False)
    for panel, row_of_axes in zip(panels, grid, strict=True):
        row_of_axes[0].set_ylabel("accuracy in %")
        for name, axes in zip(sets, row_of_axes, strict=True):
            _draw(axes, panel, name, labels)
    _add_legend(figure, labels)
    return figure


def _distinct(words: Iterable[str]) -> list[str]:
    """Return words in the order of their first appearance."""
    return list(dict.fromkeys(words))


def _add_legend(figure: Figure, labels: Sequence[str]) -> None:
    """Explain each method's line once, in the order of the labels."""
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_legend_handles_labels()[0]}
    handles = [lines[label] for label in labels if label in lines]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)


def _draw(axes: Axes, panel: Panel, name: str, labels: Sequence[str]) -> None:
    """Draw the methods of one table on one feature set."""
    axes.set_title(f"{name}\n{panel.title}", fontsize=9)
    lines, shots = panel.lines(name), panel.shots(name)
    if not lines:
        axes.set_axis_off()
        return
    axes.set_xticks(range(len(shots)), ["any" if n_shot is None else f"{n_shot}" for n_shot in shots])
    axes.set_xlabel("labelled items per class")
    axes.grid(alpha=0.3)
    for label, records in lines.items():
        _line(axes, label, records, shots, labels.index(label))


def _line(axes: Axes, label: str, records: Sequence[Record], shots: Sequence[int | None], number: int) -> None:
    axes.errorbar(
        [shots.index(record.n_shot) for record in records],
        [100 * record.accuracy for record in records],
        [0 if isnan(record.half_width) else 100 * record.half_width for record in records],
        color=f"C{number % 10}",
        linestyle=_STYLES[number // 10 % len(_STYLES)],
        marker="o",
        markersize=3,
        capsize=2,
        linewidth=1,
        label=label,
    )
