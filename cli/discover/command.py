"""``fewshot discover``: which rows are of a known class, how many new classes there are, and which rows are theirs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from click.core import ParameterSource

from fewshot.evaluation.discovery import evaluate_discovery

from ..shared import output
from ..shared.options import bundle, choice, describe_pool, document_head, resolve_device, run_options_with
from ..shared.pictures import Picture, image_files, thumbnails
from ..shared.result_folders import write_texts, writing_folder
from ..shared.words import counted
from .files import (
    ASSIGNMENTS,
    FORMAT_VERSION,
    KIND,
    REPORT,
    SUMMARY,
    assignments_csv,
    check_export,
    check_out,
    export_folders,
    rows_hash,
)
from .fit import AUTO, METHODS, Found, find_classes
from .page import render_report
from .pool import RANDOM, DiscoveryPool, load_discovery_pool
from .table import discovery_report
from .view import Examples, View, choose_examples, class_profiles, lay_out

__all__ = ["discover"]

_SIDE = 96
_OF_A_CLASS = ("class_ids", "is_known", "sizes", "cluster_ids", "recall", "precision")
_COUNT = click.IntRange(min=1)


def _n_classes(context: click.Context, parameter: click.Parameter, value: str) -> int | str:
    if value == AUTO:
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"needs a whole number from 1, or {AUTO}; got {value!r}", context, parameter)
    return int(value)


def _power(context: click.Context, parameter: click.Parameter, value: str) -> float | str:
    if value == AUTO:
        return value
    try:
        power = float(value)
    except ValueError:
        power = 0.0
    if not 0 < power <= 1:
        raise click.BadParameter(f"needs a number above 0, 1 at most, or {AUTO}; got {value!r}", context, parameter)
    return power


_data_options = bundle(
    click.option(
        "--features",
        metavar="STORE|FILE|digits",
        required=True,
        help="Rows, some with a label; read as by fewshot episode. With a store of fewshot extract the report has its "
        "pictures.",
    ),
    click.option(
        "--labels",
        metavar="FILE",
        help="Labels in place of the file's own: .npy, .txt or .csv, row for row, -1 or nothing where there is none; "
        "or a .csv with columns file and label that names the labelled images alone.",
    ),
    click.option(
        "--unlabelled",
        metavar="CLASS",
        multiple=True,
        help="A class that is none, such as the folder of what nobody has sorted; repeatable.",
    ),
    click.option("--out", metavar="DIR", required=True, help="The folder to write."),
    click.option("--overwrite", "is_overwritten", is_flag=True, help="Replace what an earlier run wrote to --out."),
)

_method_options = bundle(
    click.option(
        "--method",
        default="discovery",
        **choice(list(METHODS)),
        help="discovery finds the number of classes as it goes; the others take --n-classes, or estimate it first.",
    ),
    click.option(
        "--n-classes",
        default=AUTO,
        callback=_n_classes,
        metavar=f"{AUTO}|N",
        help="Classes in all, the known ones included; auto: found from the rows, never from hidden labels.",
    ),
    click.option(
        "--power",
        default=AUTO,
        callback=_power,
        metavar=f"{AUTO}|X",
        help="Of discovery: how much a row counts as evidence; more finds more classes. auto hides known classes and "
        "takes what finds them once each.",
    ),
)

_test_options = bundle(
    click.option(
        "--n-known", type=_COUNT, metavar="N", help="To test: of a labelled pool, only the first N classes are known."
    ),
    click.option(
        "--known-classes",
        metavar="LIST",
        help="To test: only these are known, as 0-24,30 or crow,wren, or the .json of an SSB split; random: --n-known "
        "of them.",
    ),
    click.option(
        "--labelled-fraction",
        type=click.FloatRange(min=0, max=1, min_open=True),
        metavar="X",
        default=0.5,
        help="To test: the share of the known classes' rows that keep their labels.",
    ),
)

_output_options = bundle(
    click.option(
        "--examples", type=_COUNT, metavar="N", default=8, help="Typical pictures of a class; fewer of many classes."
    ),
    click.option(
        "--map-rows",
        type=click.IntRange(min=0),
        metavar="N",
        default=1500,
        help="Rows that t-SNE places on the map, others go beside these; 0: no map.",
    ),
    click.option(
        "--export-folders", "export", metavar="DIR", help="Write the images too, a folder for each class, to a new DIR."
    ),
    click.option(
        "--link/--copy",
        "is_linked",
        default=True,
        help="Whether these are links to the images, or copies to give away. What lies in archives is always copied.",
    ),
)


@click.command(short_help="Sort unlabelled rows into known classes and new ones.")
@_data_options
@_method_options
@_test_options
@_output_options
@run_options_with("Decides every draw: one seed, one result.")
@click.pass_context
def discover(context: click.Context, /, **settings: Any) -> None:
    """Sort unlabelled rows into the known classes and new ones, and show what they are.

    \b
    OUT/report.html       look at this: each class with its pictures, a map, how sure it all is
    OUT/assignments.csv   a line a row: its class, whether that is a known one, the probability
    OUT/summary.json      counts, settings, and how the number of classes was found

    Rows without a label, or with label -1, are the unlabelled ones. Where all have one, --n-known hides some, and the
    result is scored on these. Name a new class that you recognise, and a model learns it:

    \b
    Example:
      fewshot discover --features digits --n-known 6 --out found/
      fewshot learn --model m.safetensors --from-discovery found/ --name new-01=seven
    """  # noqa: D301 (click's own mark)
    _check_applicable(context, settings)
    check_out(settings["out"], is_overwritten=settings["is_overwritten"])
    if settings["export"] is not None:
        check_export(settings["export"])
    settings |= {"device": str(resolve_device(settings["device"]))}
    with output.gathered_warnings() as noticed, _progress(settings) as progress:
        data, found, view = _discovered(settings, progress)
    document = document_head(context) | _document(settings, data, found)
    document["warnings"] = [*data.notes, *found.warnings, *noticed, *view.notes]
    texts = {ASSIGNMENTS: assignments_csv(data, found), REPORT: render_report(document, view)}
    with writing_folder(settings["out"]) as folder:
        write_texts(folder, texts | {SUMMARY: output.json_text(document) + "\n"})
    if settings["export"] is not None:
        document["warnings"] += _export(settings, data, found)
    output.publish(document, discovery_report(document), is_json=settings["is_json"])


def _check_applicable(context: click.Context, settings: Mapping[str, Any]) -> None:
    """Refuse options that were given and would do nothing, or contradict each other."""
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    n_known, known = settings["n_known"], settings["known_classes"]
    if "labelled_fraction" in given and n_known is None and known is None:
        raise click.UsageError("--labelled-fraction hides labels to test: give --n-known or --known-classes", context)
    if known == RANDOM and n_known is None:
        raise click.UsageError(f"--known-classes {RANDOM} needs --n-known, how many to draw", context)
    if known not in (None, RANDOM) and n_known is not None:
        raise click.UsageError("give --n-known or the --known-classes themselves, not both", context)
    if "is_linked" in given and settings["export"] is None:
        raise click.UsageError("--link and --copy need --export-folders", context)


def _progress(settings: Mapping[str, Any]) -> output.Progress:
    return output.Progress("steps", is_quiet=settings["is_quiet"], remark="; nothing was written")


def _discovered(settings: Mapping[str, Any], progress: output.Progress) -> tuple[DiscoveryPool, Found, View]:
    """Read the rows, find the classes, and gather what the report shows of them."""
    data = load_discovery_pool(settings)
    if settings["export"] is not None and image_files(data.pool) is None:
        raise ValueError(
            f"--export-folders needs to know the images, and {settings['features']} does not: use a store of fewshot "
            "extract"
        )
    with _step(progress, "finding classes"):
        found = find_classes(data, settings, lambda words: progress.update(0, words))
    with _step(progress, "drawing the map"):
        places = lay_out(data.pool, found.labels, settings["map_rows"], settings["seed"])
    examples = choose_examples(data, found, settings["examples"])
    pictures, notes = _pictures(data, examples, progress)
    return data, found, View(examples, pictures, data, found, places, notes)


@contextmanager
def _step(progress: output.Progress, label: str) -> Iterator[None]:
    progress.start(label, 1)
    yield
    progress.update(1, "")


def _pictures(
    data: DiscoveryPool, examples: Sequence[Examples], progress: output.Progress
) -> tuple[Mapping[int, Picture] | None, list[str]]:
    """Return the pictures that the features know of, and what is to be said of those that are missing."""
    rows = [row for groups in examples for group in groups for row in group]
    progress.start("reading pictures", len(rows))
    try:
        found = thumbnails(data.pool, rows, side=_SIDE, progress=lambda n_done: progress.update(n_done, ""))
    except ImportError:
        return None, ['the report has no pictures without pillow: pip install "fewshot[images]"']
    n_failed = sum(picture is None for picture in (found or {}).values())
    failed = counted(n_failed, "picture", "pictures")
    return found, [f"{failed} of the report could not be read: were images moved?"] if n_failed else []


def _document(settings: Mapping[str, Any], data: DiscoveryPool, found: Found) -> dict[str, Any]:
    """Return the summary, less its head."""
    n_labelled = int((data.shown >= 0).sum())
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "settings": dict(settings),
        "features": describe_pool(settings["features"], data.pool) | _identity(settings["features"], data),
        "method": found.method,
        "protocol": data.split,
        "n_rows": len(data.shown),
        "n_labelled": n_labelled,
        "n_unlabelled": len(data.shown) - n_labelled,
        "n_classes": found.n_classes,
        "n_known": found.n_known,
        "n_new": found.n_classes - found.n_known,
        "classes": class_profiles(data, found),
        "trace": [row._asdict() for row in found.trace],
        "proposals": [row._asdict() for row in found.proposals],
        "scores": _scores(data, found),
        "out": settings["out"],
    }


def _identity(name: str, data: DiscoveryPool) -> dict[str, Any]:
    """Return where the features are, from any folder, and a fingerprint of their rows."""
    path, _, part = name.rpartition(":")
    is_file = os.path.exists(name) or (part and os.path.exists(path))
    return {"path": os.path.abspath(name) if is_file else name, "rows_sha256": rows_hash(data.pool)}


def _scores(data: DiscoveryPool, found: Found) -> dict[str, Any] | None:
    """Return how well the classes fit the truth, by names; None where it is not known."""
    if data.truth is None:
        return None
    scores = evaluate_discovery(found.labels, data.truth, data.shown, n_found=found.n_classes)
    told, truths = scores.to_dict(), data.pool.class_names
    classes, confusion = told.pop("classes"), told.pop("confusion")
    columns = zip(*(classes[name] for name in _OF_A_CLASS), strict=True)
    return told | {
        "classes": [
            dict(zip(("class", "is_known", "n_rows", "found_as", "recall", "precision"), row, strict=True))
            | {"class": truths[row[0]], "found_as": None if row[3] < 0 else found.names[row[3]]}
            for row in columns
        ],
        "confusion": {
            found.names[cluster]: {
                truths[class_id]: count for class_id, count in zip(confusion["class_ids"], counts, strict=True) if count
            }
            for cluster, counts in zip(confusion["cluster_ids"], confusion["counts"], strict=True)
        },
    }


def _export(settings: Mapping[str, Any], data: DiscoveryPool, found: Found) -> list[str]:
    files = image_files(data.pool)
    assert files is not None
    n_missing = export_folders(settings["export"], files, found, is_linked=settings["is_linked"])
    missing = counted(n_missing, "image", "images")
    return [f"{missing} could not be put into {settings['export']}: were they moved?"] if n_missing else []
