"""``fewshot forget``: take classes out of a model on disk."""

from __future__ import annotations

import click

from fewshot.incremental_models import forget as forget_classes

from ..shared import output
from ..shared.options import document_head, json_option_with, model_option

__all__ = ["forget"]


@click.command()
@model_option()
@click.option(
    "--class", "names", multiple=True, required=True, metavar="NAME", help="A class to forget; may be given repeatedly."
)
@json_option_with("lines")
@click.pass_context
def forget(context: click.Context, /, model: str, names: tuple[str, ...], is_json: bool) -> None:
    """Make a model forget classes, as if they had never come; it is never predicted again.

    \b
    Example:
      fewshot forget --model m.safetensors --class wren
    """  # noqa: D301 (click's own mark)
    n_classes = len(forget_classes(model, names).classes_)
    facts = {"model": model, "forgotten": list(names), "n_classes": n_classes, "warnings": []}
    line = f"{model}: forgot {', '.join(names)}; {n_classes:,} classes left"
    output.publish(document_head(context) | facts, [line], is_json=is_json)
