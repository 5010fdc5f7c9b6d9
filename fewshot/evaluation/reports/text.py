"""Tables of results as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from math import isnan

from fewshot.evaluation.reports.panels import BEST, PAIRED, UNPAIRED, Panel, grade, query_words
from fewshot.evaluation.reports.records import Record

__all__ = ["csv_table", "latex_tables", "markdown_tables"]

_MARKS = {None: "", BEST: "", PAIRED: " †", UNPAIRED: " ‡"}
_LATEX_MARKS = {None: "", BEST: "", PAIRED: r"$^\dagger$", UNPAIRED: r"$^\ddagger$"}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$",
    "λ": r"$\lambda$", "α": r"$\alpha$", "β": r"$\beta$", "μ": r"$\mu$",
}  # fmt: skip
_CSV = (
    "features", "n_rows", "n_features", "n_classes", "class_digest", "method", "settings", "is_transductive", "n_way",
    "n_shot", "query_distribution", "n_effective_way", "n_query", "n_query_total", "dirichlet_concentration",
    "is_disjoint", "protocol", "accuracy", "half_width", "n_episodes", "n_queries", "n_leaked", "n_leaking_episodes",
    "episode_hash", "seconds", "command_line",
)  # fmt: skip


def markdown_tables(panels: Sequence[Panel], *, heading: str = "###") -> str:
    """Return the tables in Markdown: the best of a column in bold, † and ‡ what cannot be told from it."""
    return "\n".join(_markdown(panel, heading) for panel in panels)


def _markdown(panel: Panel, heading: str) -> str:
    columns = "|".join(f" {_heading(place, panel)} " for place in range(len(panel.columns)))
    lines = [f"{heading} {panel.title}", "", f"| method |{columns}|", f"|---|{'---:|' * len(panel.columns)}"]
    for label, row in panel.rows.items():
        cells = " | ".join(_markdown_cell(record, panel) for record in row)
        lines.append(f"| `{label}` | {cells} |")
    return "\n".join([*lines, "", caption(panel, bold="**Bold**"), ""])


def _heading(place: int, panel: Panel) -> str:
    """Name a column; the feature set stands over the first of its columns."""
    name, n_shot = panel.columns[place]
    is_first = place == 0 or panel.columns[place - 1][0] != name
    shots = "accuracy" if n_shot is None else f"{n_shot}-shot"
    return f"{name}: {shots}" if is_first else shots


def _markdown_cell(record: Record | None, panel: Panel) -> str:
    if record is None:
        return "–"
    text = _number(record, panel)
    return f"**{text}**" if grade(record) == BEST else f"{text}{_MARKS[grade(record)]}"


def _number(record: Record, panel: Panel) -> str:
    if not panel.has_intervals:
        return f"{100 * record.accuracy:.1f}"
    half_width = "?" if isnan(record.half_width) else f"{100 * record.half_width:.1f}"
    return f"{100 * record.accuracy:.1f} ± {half_width}"


def caption(panel: Panel, *, bold: str) -> str:
    """Say what the numbers are, and what the marks mean that occur."""
    grades = {grade(record) for record in panel.records}
    counts = sorted({record.n_episodes for record in panel.records})
    n_episodes = " to ".join(f"{number:,}" for number in dict.fromkeys((counts[0], counts[-1])))
    parts = [f"Accuracy in %, mean{_interval_words(panel)} over {n_episodes} episodes, {query_words(panel)}."]
    if len(panel.rows) > 1:
        parts.append(f"{bold}: the best of its column.")
    if PAIRED in grades:
        parts.append("†: not told from it by the 95 % interval of the paired difference.")
    if UNPAIRED in grades:
        parts.append("‡: the same by the interval of unpaired means, since they ran apart.")
    leaking = [record.n_leaked / record.n_queries for record in panel.records if record.n_leaked]
    if leaking:
        parts.append(f"Up to {100 * max(leaking):.1f} % of the queries are also support images.")
    return " ".join(parts)


def _interval_words(panel: Panel) -> str:
    if panel.has_intervals:
        return " ± 95 % interval"
    widths = [100 * record.half_width for record in panel.records if not isnan(record.half_width)]
    return f" (95 % intervals ± {min(widths):.1f} to {max(widths):.1f})" if widths else ""


def latex_tables(panels: Sequence[Panel]) -> str:
    """Return the tables in LaTeX, for the package booktabs."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(panel) for panel in panels)


def _latex(panel: Panel) -> str:
    sets = [(name, len(list(group))) for name, group in groupby(name for name, _ in panel.columns)]
    over = " & ".join(rf"\multicolumn{{{size}}}{{c}}{{{_escaped(name)}}}" for name, size in sets)
    shots = " & ".join("accuracy" if n_shot is None else f"{n_shot}-shot" for _, n_shot in panel.columns)
    rows = [
        f"{_escaped(label)} & {' & '.join(_latex_cell(record, panel) for record in row)} \\\\"
        for label, row in panel.rows.items()
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(panel.title)}. {_escaped(caption(panel, bold='Bold'))}}}",
            rf"\begin{{tabular}}{{l{'r' * len(panel.columns)}}}",
            r"\toprule",
            rf" & {over} \\",
            _rules([size for _, size in sets]),
            rf"method & {shots} \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _rules(sizes: Sequence[int]) -> str:
    """Underline each feature set."""
    ends = [2 + sum(sizes[:place]) for place in range(len(sizes) + 1)]
    return " ".join(rf"\cmidrule(lr){{{start}-{end - 1}}}" for start, end in pairwise(ends))


def _latex_cell(record: Record | None, panel: Panel) -> str:
    if record is None:
        return "--"
    text = _escaped(_number(record, panel))
    return rf"\textbf{{{text}}}" if grade(record) == BEST else f"{text}{_LATEX_MARKS[grade(record)]}"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def csv_table(records: Sequence[Record]) -> str:
    """Return one row a result, with everything that is known of it."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    behind: dict[str, Callable[[Record], object]] = {
        "behind_best": lambda record: record.behind_best.mean,
        "behind_best_half_width": lambda record: record.behind_best.half_width,
        "is_tie": lambda record: record.behind_best.is_tie,
        "is_paired": lambda record: record.behind_best.is_paired,
    }
    versions = list(dict.fromkeys(name for record in records for name in record.versions))
    writer.writerow([*_CSV, *behind, *(f"{name}_version" for name in versions)])
    for record in records:
        known = [getattr(record, name) for name in _CSV]
        writer.writerow([*known, *(read(record) for read in behind.values()), *map(record.versions.get, versions)])
    return written.getvalue()
