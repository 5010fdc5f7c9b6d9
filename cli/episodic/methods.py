"""``fewshot methods``: the values of --method."""

from __future__ import annotations

from collections.abc import Mapping

import click
from rich.table import Table

from fewshot.registry import INCREMENTAL_METHODS, METHODS

from ..shared import output
from ..shared.options import json_option

__all__ = ["methods"]

Rows = list[dict[str, object]]


@click.command()
@json_option
def methods(is_json: bool) -> None:
    """List the methods that --method takes, with their options.

    Those of fewshot episode come first. An inductive method answers each query alone; a transductive one answers all
    queries of an episode together. The incremental ones, of fewshot calibrate and learn, take in new classes at any
    time. Options follow the name after a colon.

    \b
    Example:
      fewshot methods
      fewshot episode --features digits --method em-gaussian:class_balance=0,n_layers=3
      fewshot calibrate --features digits --method ncm --method teen:shift_weight=0.3
    """  # noqa: D301 (click's own mark)
    episodic, incremental = _episodic(), _incremental()
    if is_json:
        output.text(output.json_text({"methods": episodic, "incremental_methods": incremental}))
    else:
        output.show(
            "Of fewshot episode",
            _table(episodic),
            "Of fewshot calibrate and fewshot learn",
            _table(incremental),
        )


def _episodic() -> Rows:
    return [
        {
            "name": name,
            "is_transductive": entry.is_transductive,
            "summary": entry.summary,
            "reference": entry.reference,
            "options": entry.options(),
        }
        for name, entry in METHODS.items()
    ]


def _incremental() -> Rows:
    return [
        {
            "name": name,
            "estimator": entry.class_name,
            "summary": entry.summary,
            "reference": entry.reference,
            "options": _writable(entry.options()),
        }
        for name, entry in INCREMENTAL_METHODS.items()
    ]


def _writable(options: Mapping[str, object]) -> dict[str, object]:
    """Keep the options that can be given in words."""
    return {name: value for name, value in options.items() if value is None or isinstance(value, (str, int, float))}


def _table(rows: Rows) -> Table:
    kind = "kind" if "is_transductive" in rows[0] else "estimator"
    table = Table("method", kind, "what it does", "reference", "options=default", box=output.BOX)
    for row in rows:
        table.add_row(f"{row['name']}", _kind(row), f"{row['summary']}", f"{row['reference']}", _words(row["options"]))
    return table


def _kind(row: dict[str, object]) -> str:
    if "estimator" in row:
        return f"{row['estimator']}"
    return "transductive" if row["is_transductive"] else "inductive"


def _words(options: object) -> str:
    assert isinstance(options, dict)
    return ",".join(f"{name}={_word(value)}" for name, value in options.items())


def _word(value: object) -> str:
    """Write a value as it is given on the command line."""
    return f"{value}".lower() if isinstance(value, bool) or value is None else f"{value}"
