"""``fewshot methods``: what can be named after --method."""

from __future__ import annotations

import click
from rich.table import Table

from cli import output
from fewshot.registry import METHODS, method_options

__all__ = ["methods"]


@click.command(short_help="List the methods.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON document in place of a table.")
def methods(is_json: bool) -> None:
    """List the methods that --method takes, with their options.

    An inductive method answers each query alone; a transductive one answers all queries of an episode together. Options
    follow the name after a colon.

    \b
    Example:
      fewshot methods
      fewshot episode --features digits --method em-gaussian:class_balance=0,n_layers=3
    """  # noqa: D301 (click's own mark)
    rows: list[dict[str, object]] = [
        {
            "name": name,
            "is_transductive": entry.is_transductive,
            "summary": entry.summary,
            "reference": entry.reference,
            "options": method_options(name),
        }
        for name, entry in METHODS.items()
    ]
    if is_json:
        output.text(output.json_text({"methods": rows}))
    else:
        output.show(_table(rows))


def _table(rows: list[dict[str, object]]) -> Table:
    table = Table("method", "kind", "what it does", "reference", "options=default", box=output.BOX)
    for row in rows:
        kind = "transductive" if row["is_transductive"] else "inductive"
        table.add_row(f"{row['name']}", kind, f"{row['summary']}", f"{row['reference']}", _words(row["options"]))
    return table


def _words(options: object) -> str:
    assert isinstance(options, dict)
    return ",".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items()
    )
