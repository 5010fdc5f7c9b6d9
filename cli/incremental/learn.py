"""``fewshot learn``: add classes, or shots of known ones, to a model on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
from rich.console import RenderableType

from fewshot.features import FeatureSet
from fewshot.incremental_models import DEFAULT_METHOD, FoundClasses, Learned, LearnSettings, found_pool
from fewshot.incremental_models import learn as learn_rows
from fewshot.incremental_models.learning import N_FOLDS

from ..shared import output
from ..shared.options import (
    bundle,
    check_folder,
    classes_option,
    default,
    document_head,
    features_option,
    json_option_with,
    labels_option,
    load_pool,
    model_option,
    refuse_unused,
)
from ..shared.tables import fact_lines
from ..shared.words import counts_listed

__all__ = ["learn"]

_NO_REJECTION = f"no class has {N_FOLDS} rows, so predict --reject will not work with this model"


def _renamed(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    names: dict[str, str] = {}
    for text in texts:
        found, _, name = text.partition("=")
        if not found or not name.strip():
            raise click.BadParameter(f"needs FOUND=NAME, such as new-07=wren; got {text!r}", context, parameter)
        if found in names:
            raise click.BadParameter(f"names {found} twice", context, parameter)
        names[found] = name.strip()
    return names


_rows_options = bundle(
    features_option(
        "Labelled features, read as by fewshot episode. With --from-discovery: where they are now, if they were moved.",
        is_required=False,
    ),
    labels_option(),
    classes_option("Classes to use, such as 0-24,30 or crow,wren."),
    click.option(
        "--from-discovery",
        "found",
        metavar="DIR",
        help="Learn classes that fewshot discover found, in place of labelled rows: DIR is what it wrote.",
    ),
    click.option(
        "--name",
        "names",
        multiple=True,
        callback=_renamed,
        metavar="FOUND=NAME",
        help="A found class to learn and what to call it, such as new-07='Parus major'; repeatable.",
    ),
    click.option(
        "--min-probability",
        type=click.FloatRange(min=0, max=1),
        metavar="P",
        default=default(FoundClasses, "min_probability"),
        help="Of a found class, learn the rows that are its own with this probability or more.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class LearnFiles:
    """Where the command reads and writes, and how it prints."""

    model: str
    features: str | None
    labels: str | None
    classes: str | None
    found: str | None
    names: Mapping[str, str]
    min_probability: float
    is_json: bool


@click.command()
@model_option("The .safetensors file; made if it is not there.")
@_rows_options
@click.option(
    "--method",
    metavar="NAME[:OPTION=VALUE,...]",
    show_default=f"{DEFAULT_METHOD}, or the model's own",
    help="For a new model: how it learns, see fewshot methods.",
)
@click.option(
    "--base/--new",
    "is_base",
    default=None,
    show_default="--base for a new model, else --new",
    help="Whether classes that the model does not know are base classes, of many items each, or new ones of few.",
)
@json_option_with("lines")
@click.pass_context
def learn(context: click.Context, /, method: str | None, is_base: bool | None, **words: Any) -> None:
    """Teach a model classes, a few items of each, at any time; it is made by the first call.

    The first call's classes are the base session: what they are like is what new classes of few items are helped by.
    Rows of a class that is known are more shots of it. Rows can also be those of classes that fewshot discover found,
    under names of yours. The model is replaced only when all is done.

    \b
    Example:
      fewshot learn --model m.safetensors --features digits --classes 0-6
      fewshot learn --model m.safetensors --features shots.npz
      fewshot predict --model m.safetensors --features queries.npz --out predictions.csv
    """  # noqa: D301 (click's own mark)
    settings, files = _settings(method, is_base), LearnFiles(**words)
    _check_applicable(context, files)
    check_folder(files.model)
    rows_name, rows = _rows(files)
    learned = learn_rows(files.model, rows, settings, rows_name=rows_name)
    document = document_head(context) | {"settings": context.params} | _document(files.model, rows_name, learned)
    output.publish(document, _report(files.model, rows_name, learned), is_json=files.is_json)


def _settings(method: str | None, is_base: bool | None) -> LearnSettings:
    try:
        return LearnSettings(method=method, is_base=is_base)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--method'") from None


def _check_applicable(context: click.Context, files: LearnFiles) -> None:
    """Check that the rows to learn are named one way: labelled, or found."""
    if files.found is None:
        of_found = (False, "needs --from-discovery")
        refuse_unused(context, {"names": of_found, "min_probability": of_found})
        if files.features is None:
            raise click.UsageError("Missing option '--features'.", context)
    elif files.labels is not None or files.classes is not None:
        raise click.UsageError("--from-discovery takes classes by --name: leave out --labels and --classes", context)
    elif not files.names:
        raise click.UsageError("--from-discovery needs --name FOUND=NAME for each class to learn", context)


def _rows(files: LearnFiles) -> tuple[str, Callable[[], FeatureSet]]:
    """Return the place of the rows to learn, and their reader."""
    if files.found is None:
        return str(files.features), partial(load_pool, str(files.features), files.labels, files.classes)
    found = FoundClasses(
        folder=files.found, names=files.names, min_probability=files.min_probability, features=files.features
    )
    return found.file(), partial(found_pool, found)


def _document(model: str, rows_name: str, learned: Learned) -> dict[str, Any]:
    """Return the document, less its head and settings."""
    is_unable = learned.is_base and not learned.is_calibrated
    return {
        "model": model,
        "method": repr(learned.classifier),
        "features": rows_name,
        "n_rows": learned.n_rows,
        "as": _session(learned),
        "new_classes": learned.new_classes,
        "more_shots": learned.more_shots,
        "n_classes": len(learned.classifier.classes_),
        "n_base_classes": len(learned.classifier.base_classes_),
        "warnings": [_NO_REJECTION] if is_unable else [],
    }


def _report(model: str, rows_name: str, learned: Learned) -> list[RenderableType]:
    n_classes, n_base = len(learned.classifier.classes_), len(learned.classifier.base_classes_)
    lines = [
        ("model", f"{model}: {learned.classifier!r}"),
        ("learned", f"{learned.n_rows:,} rows of {rows_name}"),
        (_session(learned), counts_listed(learned.new_classes)),
        ("more of", counts_listed(learned.more_shots)),
        ("knows", f"{n_classes:,} classes, {n_base:,} of them base classes"),
    ]
    return ["Model learned", *fact_lines(line for line in lines if line[1])]


def _session(learned: Learned) -> str:
    return "base" if learned.is_base else "new"
