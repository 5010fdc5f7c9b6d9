"""The document of ``fewshot tune`` as a table and lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from ..shared.output import BOX
from ..shared.tables import describe_features, fact_lines
from ..shared.words import counted

__all__ = ["tune_report"]

Row = Mapping[str, Any]

_N_SHOWN = 10


def tune_report(document: Row) -> list[RenderableType]:
    """Return the best candidates, the default, and the decision."""
    rows = document["candidates"]
    n_others, n_episodes = len(rows) - 1, document["settings"]["n_episodes"]
    regimes = counted(len(document["regimes"]), "regime", "regimes")
    return [
        f"Accuracy in %, mean over {regimes} of {n_episodes:,} episodes each ± 95 % interval; "
        f"difference to the default in points ± interval for all {n_others} differences together",
        _table([*rows[:_N_SHOWN], *(row for row in rows[_N_SHOWN:] if row["is_default"] or row["is_chosen"])]),
        *fact_lines(_facts(document)),
    ]


def _table(rows: list[Row]) -> Table:
    table = Table(*rows[0]["options"], box=BOX)
    for name in ("accuracy", "difference"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        gain = (
            "" if row["is_default"] else _percent(row["difference"]["mean"], row["difference"]["half_width"], sign="+")
        )
        table.add_row(
            *[_word(value) for value in row["options"].values()],
            _percent(row["accuracy"], row["half_width"]),
            gain,
            ", ".join(word for word in ("chosen", "default") if row[f"is_{word}"]),
            style="bold" if row["is_chosen"] else "",
        )
    return table


def _percent(mean: float, half_width: float, sign: str = "") -> str:
    return f"{100 * mean:{sign}.2f} ± {100 * half_width:.2f}"


def _word(value: object) -> str:
    """Write a value as it is given on the command line."""
    return f"{value}".lower() if isinstance(value, bool) else f"{value}"


def _edges(document: Row) -> Iterable[str]:
    """Say which chosen numbers are the first or last of those tried, so that others beyond may be better."""
    for option, value in document["options"].items():
        tried = sorted({row["options"][option] for row in document["candidates"]})
        if isinstance(value, (bool, str)) or value not in (tried[0], tried[-1]) or len(tried) == 1:
            continue
        end, beyond = ("lowest", "lower") if value == tried[0] else ("highest", "higher")
        yield f"{option} {value:g} is the {end} tried: {beyond} ones may be better, see --grid"


def _facts(document: Row) -> Iterable[tuple[str, str]]:
    """Yield labels and sentences."""
    n_tried, n_all = len(document["candidates"]), document["n_combinations"]
    if document["is_default_kept"]:
        yield "chosen", f"{document['method']}, the default: no candidate is better beyond its interval"
    else:
        yield "chosen", document["method"]
        yield from (("edge", words) for words in _edges(document))
    if n_tried < n_all:
        yield "tried", f"{n_tried:,} of {n_all:,} combinations, drawn at random; more with --n-candidates"
    if n_tried > _N_SHOWN:
        yield "shown", f"the best {_N_SHOWN} of {n_tried:,} candidates, and the default; all of them are in the file"
    for regime in document["regimes"]:
        yield "episodes", f"{regime['protocol']} (episodes {regime['episode_hash']})"
        if regime["skipped_classes"]:
            n_skipped = len(regime["skipped_classes"])
            yield "skipped", f"{n_skipped} classes with too few items: {', '.join(regime['skipped_classes'])}"
    yield "features", describe_features(document["features"])
    yield "written", document["settings"]["out"]
    yield "use it", document["next_command"]
