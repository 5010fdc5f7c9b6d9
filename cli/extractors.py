"""``fewshot extractors``: what can be named after --extractor."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from cli import output
from fewshot.features.families import FAMILIES, extractor_options

__all__ = ["extractors"]


@click.command(short_help="List the extractors.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON document in place of a table.")
def extractors(is_json: bool) -> None:
    """List the families of extractors that --extractor takes: what each needs, its licence and its options.

    A name is FAMILY:NAME; efficientnet_lite0, 1, 2 and the models of timm need no family. Options follow as --option
    KEY=VALUE.

    \b
    Example:
      fewshot extractors
      fewshot extract --images DIR --extractor resnet50 --weights resnet50.safetensors --out store/
    """  # noqa: D301 (click's own mark)
    rows = [_row(name) for name in FAMILIES]
    if is_json:
        output.text(output.json_text({"extractors": rows}))
    else:
        output.show(_table(rows))


def _row(name: str) -> dict[str, Any]:
    family = FAMILIES[name]
    return {
        "family": name,
        "example": family.example,
        "summary": family.summary,
        "is_installed": family.is_installed,
        "install": family.install,
        "weights": family.weights,
        "are_weights_here": family.are_weights_here,
        "licence": family.licence,
        "options": extractor_options(name),
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("name", "what it is", "installed", "weights", "here", "licence", "options=default", box=output.BOX)
    for row in rows:
        installed = "yes" if row["is_installed"] else f"pip install {row['install']}"
        here = {True: "yes", False: "no", None: ""}[row["are_weights_here"]]
        words = ",".join(f"{name}={_word(value)}" for name, value in row["options"].items())
        table.add_row(row["example"], row["summary"], installed, row["weights"], here, row["licence"], words)
    return table


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(map(str, value)) if isinstance(value, (tuple, list)) else f"{value}"
