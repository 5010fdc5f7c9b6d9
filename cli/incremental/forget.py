"""``fewshot forget``: take classes out of a model on disk."""

from __future__ import annotations

from typing import Any

import click

from fewshot.checks import did_you_mean
from fewshot.models import load_classifier, save_classifier

from ..shared import output
from ..shared.options import document_head

__all__ = ["forget"]


@click.command(short_help="Take classes out of a model on disk.")
@click.option("--model", metavar="FILE", required=True, help="The .safetensors file of fewshot learn.")
@click.option(
    "--class", "names", multiple=True, required=True, metavar="NAME", help="A class to forget; may be given repeatedly."
)
@click.option("--json", "is_json", is_flag=True, help="Print one JSON document in place of lines.")
@click.pass_context
def forget(context: click.Context, /, model: str, names: tuple[str, ...], is_json: bool) -> None:
    """Make a model forget classes, as if they had never come; it is never predicted again.

    \b
    Example:
      fewshot forget --model m.safetensors --class wren
    """  # noqa: D301 (click's own mark)
    classifier, source = load_classifier(model)
    for name in names:
        known = classifier.classes_.tolist()
        if name not in known:
            raise ValueError(f"{model} knows no class {name!r}{did_you_mean(name, known)}")
        classifier.remove_class(name)
    save_classifier(classifier, model, source)
    document: dict[str, Any] = document_head(context) | {
        "model": model,
        "forgotten": list(names),
        "n_classes": len(classifier.classes_),
        "warnings": [],
    }
    left = f"{document['n_classes']:,} classes left"
    output.publish(document, [f"{model}: forgot {', '.join(names)}; {left}"], is_json=is_json)
