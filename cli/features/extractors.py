"""``fewshot extractors``: the values of --extractor."""

from __future__ import annotations

from typing import Any

import click
from rich.console import RenderableType
from rich.table import Table

from fewshot.features.families import FAMILIES, Family, extractor_options
from fewshot.features.metadata import OPTION_MEANINGS, ExtractorFacts, extractor_facts

from ..shared import output
from ..shared.options import json_option_with
from ..shared.tables import fact_lines

__all__ = ["extractors"]

_HERE = {True: "yes", False: "no", None: ""}


@click.command()
@click.argument("name", required=False)
@json_option_with("a table")
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
            facts = extractor_facts(name)
        document = {"extractor": _document(name, facts), "warnings": noticed}
        output.publish(document, _report(name, facts), is_json=is_json)
    elif is_json:
        rows = [{"example": family.example, **_row(name)} for name, family in FAMILIES.items()]
        output.text(output.json_text({"extractors": rows}))
    else:
        output.show(_table())


def _row(name: str) -> dict[str, Any]:
    family = FAMILIES[name]
    return {
        "family": name,
        "summary": family.summary,
        "is_installed": family.is_installed,
        "install": family.install,
        "weights": family.weights,
        "are_weights_here": family.are_weights_here,
        "licence": family.licence,
        "options": extractor_options(name),
    }


def _document(name: str, facts: ExtractorFacts) -> dict[str, Any]:
    """Return the row of a family, with the facts of its model and the meanings of its options."""
    options = {
        option: {"default": value, "meaning": OPTION_MEANINGS[option]}
        for option, value in extractor_options(facts.family).items()
    }
    return {"name": name, **_row(facts.family), **facts._asdict(), "options": options}


def _report(name: str, facts: ExtractorFacts) -> list[RenderableType]:
    family, here = FAMILIES[facts.family], _HERE[facts.are_weights_here]
    lines = [
        ("family", f"{facts.family}: {family.summary}"),
        ("installed", _installed(family)),
        ("weights", family.weights + (f"; on this machine: {here}" if here else "")),
        ("licence", facts.licence),
    ]
    table = Table("option", "default", "meaning", box=output.BOX)
    for option, value in extractor_options(facts.family).items():
        table.add_row(option, _word(value), OPTION_MEANINGS[option])
    return [name, *fact_lines(lines), table]


def _table() -> Table:
    table = Table("name", "what it is", "installed", "weights", "here", "licence", "options=default", box=output.BOX)
    for name, family in FAMILIES.items():
        words = ",".join(f"{option}={_word(value)}" for option, value in extractor_options(name).items())
        here = _HERE[family.are_weights_here]
        table.add_row(family.example, family.summary, _installed(family), family.weights, here, family.licence, words)
    return table


def _installed(family: Family) -> str:
    return "yes" if family.is_installed else f"pip install {family.install}"


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(map(str, value)) if isinstance(value, (tuple, list)) else f"{value}"
