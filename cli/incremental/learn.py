"""``fewshot learn``: add classes, or shots of known ones, to a model on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from click.core import ParameterSource
from rich.console import RenderableType

from fewshot.features import FeatureSet
from fewshot.features.feature_set import check_same_source
from fewshot.incremental.estimator import IncrementalClassifier
from fewshot.models import load_classifier, save_classifier
from fewshot.registry.incremental import build_classifier

from ..discover.found_classes import found_pool
from ..shared import output
from ..shared.options import bundle, check_folder, document_head, load_pool
from ..shared.tables import fact_lines

__all__ = ["check_fits", "learn"]

DEFAULT_METHOD = "teen-auto"
_N_FOLDS = 5


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
    click.option(
        "--features",
        metavar="STORE|FILE|digits",
        help="Labelled features, read as by fewshot episode. With --from-discovery: where they are now, if they were "
        "moved.",
    ),
    click.option(
        "--labels",
        metavar="FILE",
        help="Labels in place of the file's own: .npy, .txt (one a line) or .csv, row for row.",
    ),
    click.option("--classes", metavar="LIST", show_default="all", help="Classes to use, such as 0-24,30 or crow,wren."),
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
        default=0.5,
        help="Of a found class, learn the rows that are its own with this probability or more.",
    ),
)


@click.command(short_help="Add classes, or shots of known ones, to a model on disk.")
@click.option("--model", metavar="FILE", required=True, help="The .safetensors file; made if it is not there.")
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
@click.option("--json", "is_json", is_flag=True, help="Print one JSON document in place of lines.")
@click.pass_context
def learn(context: click.Context, /, **settings: Any) -> None:
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
    _check_words(settings["method"])
    _check_rows(context, settings)
    check_folder(settings["model"])
    model, source, is_made = _open(settings)
    pool, rows_of = _rows(settings)
    if not is_made:
        check_fits(model, source, pool, (settings["model"], rows_of))
    known = set() if is_made else set(model.classes_.tolist())
    is_base = is_made if settings["is_base"] is None else settings["is_base"]
    names = np.array(pool.class_names)[pool.labels.numpy()]
    model.partial_fit(pool.features, names, base=is_base)
    warnings = _calibrate(model, pool, names) if is_base else []
    save_classifier(model, settings["model"], source or pool.source)
    document = document_head(context) | _document(settings, model, pool, known, is_base=is_base)
    document["features"], document["warnings"] = rows_of, warnings
    output.publish(document, _report(document), is_json=settings["is_json"])


def _check_words(method: str | None) -> None:
    try:
        build_classifier(method or DEFAULT_METHOD)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--method'") from None


def _check_rows(context: click.Context, settings: Mapping[str, Any]) -> None:
    """Check that the rows to learn are named one way: labelled, or found."""
    if settings["found"] is None:
        given = context.get_parameter_source("min_probability") is ParameterSource.COMMANDLINE
        useless = [word for word, is_given in (("--name", settings["names"]), ("--min-probability", given)) if is_given]
        if useless:
            raise click.UsageError(f"{useless[0]} needs --from-discovery", context)
        if settings["features"] is None:
            raise click.UsageError("Missing option '--features'.", context)
        return
    if settings["labels"] is not None or settings["classes"] is not None:
        raise click.UsageError("--from-discovery takes classes by --name: leave out --labels and --classes", context)
    if not settings["names"]:
        raise click.UsageError("--from-discovery needs --name FOUND=NAME for each class to learn", context)


def _rows(settings: Mapping[str, Any]) -> tuple[FeatureSet, str]:
    """Return the rows to learn, and what they were read from."""
    if settings["found"] is not None:
        return found_pool(settings["found"], settings["names"], settings["min_probability"], settings["features"])
    return load_pool(settings["features"], settings["labels"], settings["classes"]), settings["features"]


def _open(settings: Mapping[str, Any]) -> tuple[IncrementalClassifier, Mapping[str, object], bool]:
    """Return the model, what made its features, and whether it is a new one."""
    if not Path(settings["model"]).exists():
        return build_classifier(settings["method"] or DEFAULT_METHOD), {}, True
    model, source = load_classifier(settings["model"])
    if settings["method"] is not None and repr(build_classifier(settings["method"])) != repr(model):
        raise ValueError(
            f"{settings['model']} is a {model!r}, --method asks for a {build_classifier(settings['method'])!r}: "
            "leave --method out, or name another file"
        )
    return model, source, False


def check_fits(
    model: IncrementalClassifier, source: Mapping[str, object], pool: FeatureSet, names: tuple[str, str]
) -> None:
    """Check that rows are such as a model has learned: of one extractor, and of one length.

    Raises
    ------
    ValueError
        If they are not; the message says which two they were.
    """
    check_same_source(source, pool.source, names)
    n_features = pool.features.shape[1]
    if n_features != model.n_features_in_:
        raise ValueError(
            f"{names[0]} has learned rows of {model.n_features_in_} features, {names[1]} has {n_features} a row: "
            "extract both with one extractor"
        )


def _calibrate(model: IncrementalClassifier, pool: FeatureSet, names: npt.NDArray[np.str_]) -> list[str]:
    """Learn how known items score, for predict --reject; return what there is to warn of."""
    if int(pool.class_counts().max()) < _N_FOLDS:
        return [f"no class has {_N_FOLDS} rows, so predict --reject will not work with this model"]
    model.calibrate_rejection(pool.features, names, n_folds=_N_FOLDS)
    return []


def _document(
    settings: Mapping[str, Any], model: IncrementalClassifier, pool: FeatureSet, known: set[str], *, is_base: bool
) -> dict[str, Any]:
    counts = dict(zip(pool.class_names, torch.bincount(pool.labels, minlength=pool.n_classes).tolist(), strict=True))
    return {
        "settings": dict(settings),
        "model": settings["model"],
        "method": repr(model),
        "features": settings["features"],
        "n_rows": len(pool.labels),
        "as": "base" if is_base else "new",
        "new_classes": {name: count for name, count in counts.items() if name not in known},
        "more_shots": {name: count for name, count in counts.items() if name in known},
        "n_classes": len(model.classes_),
        "n_base_classes": len(model.base_classes_),
    }


def _report(document: Mapping[str, Any]) -> list[RenderableType]:
    lines = [
        ("model", f"{document['model']}: {document['method']}"),
        ("learned", f"{document['n_rows']:,} rows of {document['features']}"),
        (f"{document['as']}", _listed(document["new_classes"])),
        ("more of", _listed(document["more_shots"])),
        ("knows", f"{document['n_classes']:,} classes, {document['n_base_classes']:,} of them base classes"),
    ]
    return ["Model learned", *fact_lines(line for line in lines if line[1])]


def _listed(counts: Mapping[str, int]) -> str:
    """Say classes and their rows, the first ten of them."""
    words = [f"{name} ({count:,})" for name, count in list(counts.items())[:10]]
    more = [f"and {len(counts) - 10:,} more"] if len(counts) > 10 else []
    return ", ".join(words + more)
