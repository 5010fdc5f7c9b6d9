"""``fewshot extractors``: what can be named after --extractor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from rich.console import RenderableType
from rich.table import Table

from fewshot.features.families import FAMILIES, extractor_options
from fewshot.features.metadata import OPTION_MEANINGS, extractor_facts

from ..shared import output
from ..shared.tables import fact_lines

__all__ = ["extractors"]

_HERE = {True: "yes", False: "no", None: ""}


@click.command(short_help="List the extractors, or say what is known of one.")
@click.argument("name", required=False)
@click.option("--json", "is_json", is_flag=True, help="Print one JSON document in place of a table.")
def extractors(name: str | None, is_json: bool) -> None:
    """List the families of extractors that --extractor takes: what each needs, its licence and its options.

    With a NAME, say it of this extractor: whether its weights are on this machine, their licence, and what its options
    mean. A name is FAMILY:NAME; efficientnet_lite0, 1, 2 and the models of timm need no family. Options follow as
    --option KEY=VALUE.

    \b
    Example:
      fewshot extractors
      fewshot extractors torchvision:resnet50
      fewshot extract --images DIR --extractor resnet50 --weights resnet50.safetensors --out store/
    """  # noqa: D301 (click's own mark)
    if name is not None:
        with output.gathered_warnings() as noticed:
            document = {"extractor": _facts(name)}
        output.publish(document | {"warnings": noticed}, _report(document["extractor"]), is_json=is_json)
        return
    rows = [_row(name) for name in FAMILIES]
    if is_json:
        output.text(output.json_text({"extractors": rows}))
    else:
        output.show(_table(rows))


def _facts(name: str) -> dict[str, Any]:
    """Return the row of a family, with what its model adds and what its options mean."""
    facts = extractor_facts(name)
    row = _row(facts.family)
    options = {
        option: {"default": value, "meaning": OPTION_MEANINGS[option]} for option, value in row["options"].items()
    }
    del row["example"]
    return {"name": name, **row, "model": facts.model, "licence": facts.licence,
            "are_weights_here": facts.are_weights_here, "options": options}  # fmt: skip


def _report(told: Mapping[str, Any]) -> list[RenderableType]:
    here = _HERE[told["are_weights_here"]]
    facts = [
        ("family", f"{told['family']}: {told['summary']}"),
        ("installed", _installed(told)),
        ("weights", told["weights"] + (f"; on this machine: {here}" if here else "")),
        ("licence", told["licence"]),
    ]
    table = Table("option", "default", "meaning", box=output.BOX)
    for option, described in told["options"].items():
        table.add_row(option, _word(described["default"]), described["meaning"])
    return [told["name"], *fact_lines(facts), table]


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
        here = _HERE[row["are_weights_here"]]
        words = ",".join(f"{name}={_word(value)}" for name, value in row["options"].items())
        table.add_row(row["example"], row["summary"], _installed(row), row["weights"], here, row["licence"], words)
    return table


def _installed(row: Mapping[str, Any]) -> str:
    return "yes" if row["is_installed"] else f"pip install {row['install']}"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(map(str, value)) if isinstance(value, (tuple, list)) else f"{value}"
