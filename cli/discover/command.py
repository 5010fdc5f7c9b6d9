"""``fewshot discover``: sort unlabelled rows into known classes and new ones, and report on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from fewshot_episodes import ssb_known_classes

from fewshot.evaluation.discovery import (
    DiscoveryExperiment,
    DiscoveryProgress,
    DiscoveryResult,
    check_class_names,
    run_discovery,
)
from fewshot.evaluation.discovery.files import ASSIGNMENTS, KIND, assignments_csv
from fewshot.evaluation.discovery.settings import AUTO, RANDOM
from fewshot.evaluation.discovery.summary import discovery_summary
from fewshot.features import FeatureSet
from fewshot.features.images.folders import check_export, export_folders
from fewshot.features.images.pictures import image_files
from fewshot.features.partial_labels import load_partly_labelled
from fewshot.registry.discovery import DISCOVERY_METHODS
from fewshot.storage.result_folders import SUMMARY, check_out, filling_folder, write_texts

from ..shared import output
from ..shared.options import (
    COUNT,
    FROM_0,
    bundle,
    class_positions,
    default,
    document_head,
    features_option,
    labels_option,
    refuse_unused,
    resolve_device,
    run_options,
    setting_option,
    usage_errors,
)
from ..shared.page import REPORT
from ..shared.pictures import Pictures, read_pictures
from ..shared.words import counted
from .page import SIDE, Report, render_report
from .table import discovery_report

__all__ = ["discover"]

_option = partial(setting_option, DiscoveryExperiment)


@dataclass(frozen=True, kw_only=True)
class DiscoveryFiles:
    """Where the command reads and writes, and how it runs."""

    features: str
    labels: str | None
    out: str
    is_overwritten: bool
    export: str | None
    is_linked: bool
    device: str
    is_json: bool
    is_quiet: bool


def _auto_or(read: Callable[[str], float], needed: str) -> Callable[[click.Context, click.Parameter, str], Any]:
    """Return a callback that reads a number in its range, or lets ``auto`` pass."""

    def parse(context: click.Context, parameter: click.Parameter, value: str) -> float | str:
        if value == AUTO:
            return value
        try:
            return read(value)
        except ValueError:
            raise click.BadParameter(f"needs {needed}, or {AUTO}; got {value!r}", context, parameter) from None

    return parse


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(text)
    return int(text)


def _power(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise ValueError(text)
    return float(text)


_data_options = bundle(
    features_option(
        "Rows, some with a label; read as by fewshot episode. With a store of fewshot extract the report has its "
        "pictures."
    ),
    labels_option(
        "Labels in place of the file's own: .npy, .txt or .csv, row for row, -1 or nothing where there is none; or a "
        ".csv with columns file and label that names the labelled images alone."
    ),
    _option(
        "unlabelled",
        "CLASS",
        "A class whose rows count as unlabelled, such as the folder of unsorted images; repeatable.",
        multiple=True,
    ),
    click.option("--out", metavar="DIR", required=True, help="The folder to write."),
    click.option("--overwrite", "is_overwritten", is_flag=True, help="Replace an earlier result in --out."),
)

_method_options = bundle(
    _option(
        "method",
        list(DISCOVERY_METHODS),
        "discovery finds the number of classes as it goes; the others take --n-classes, or estimate it first.",
    ),
    _option(
        "n_classes",
        f"{AUTO}|N",
        "Classes in all, the known ones included; auto: found from the rows, never from held-out labels.",
        callback=_auto_or(_count, "a whole number from 1"),
    ),
    _option(
        "power",
        f"{AUTO}|X",
        "Weight of one row in the evidence of discovery, in (0, 1]; larger values find more classes. auto: the value "
        "at which held-out known classes are each found exactly once.",
        callback=_auto_or(_power, "a number above 0, 1 at most"),
    ),
)

_test_options = bundle(
    _option("n_known", COUNT, "To test: of a labelled pool, only the first N classes are known."),
    click.option(
        "--known-classes",
        metavar="LIST",
        help="To test: only these are known, as 0-24,30 or crow,wren, or the .json of an SSB split; random: --n-known "
        "of them.",
    ),
    _option(
        "labelled_fraction",
        click.FloatRange(min=0, max=1, min_open=True),
        "To test: the share of the known classes' rows that keep their labels.",
    ),
)

_output_options = bundle(
    click.option(
        "--examples",
        type=COUNT,
        metavar="N",
        default=default(DiscoveryExperiment, "n_examples"),
        help="Typical pictures of a class; fewer of many classes.",
    ),
    click.option(
        "--map-rows",
        type=FROM_0,
        metavar="N",
        default=default(DiscoveryExperiment, "n_map_rows"),
        help="Rows that t-SNE places on the map, others go beside these; 0: no map.",
    ),
    click.option(
        "--export-folders", "export", metavar="DIR", help="Write the images too, a folder for each class, to a new DIR."
    ),
    click.option(
        "--link/--copy",
        "is_linked",
        default=True,
        help="Whether these are links to the images, or copies to give away. Images in archives are always copied.",
    ),
)


@click.command()
@_data_options
@_method_options
@_test_options
@_output_options
@run_options(DiscoveryExperiment, "Decides every draw: one seed, one result.")
@click.pass_context
def discover(context: click.Context, /, known_classes: str | None, examples: int, map_rows: int, **words: Any) -> None:
    """Sort unlabelled rows into the known classes and new ones, and report on them.

    \b
    OUT/report.html       look at this: each class with its pictures, a map, how sure it all is
    OUT/assignments.csv   a line a row: its class, whether that is a known one, the probability
    OUT/summary.json      counts, settings, and how the number of classes was found

    Rows without a label, or with label -1, are the unlabelled ones. Where all have one, --n-known holds some out, and
    the result is scored on these. Name a new class that you recognise, and a model learns it:

    \b
    Example:
      fewshot discover --features digits --n-known 6 --out found/
      fewshot learn --model m.safetensors --from-discovery found/ --name new-01=seven
    """  # noqa: D301 (click's own mark)
    files = DiscoveryFiles(**{field.name: words.pop(field.name) for field in fields(DiscoveryFiles)})
    with usage_errors(context):
        experiment = DiscoveryExperiment(
            known_classes=RANDOM if known_classes == RANDOM else None,
            n_examples=examples,
            n_map_rows=map_rows,
            **words,
        )
    _check_applicable(context, files, experiment, known_classes)
    _check_places(files)
    device = str(resolve_device(files.device))
    with output.gathered_warnings() as noticed, _progress(files) as progress:
        pool = _load_pool(files).to(device)
        with usage_errors(context):
            check_class_names("unlabelled", experiment.unlabelled, pool.class_names)
        result = run_discovery(pool, _with_known(known_classes, experiment, pool), progress=_reporter(progress))
        pictures = _pictures(result, progress)
    document = document_head(context) | {"settings": context.params | {"device": device}}
    document |= discovery_summary(files.features, files.out, result)
    document["warnings"] = [*noticed, *result.found.warnings, *pictures.warnings]
    _write(files, document, Report(files.features, result, pictures.by_row))
    if files.export is not None:
        document["warnings"] += _export(files, files.export, result)
    output.publish(document, discovery_report(files.features, files.out, files.export, result), is_json=files.is_json)


def _check_applicable(
    context: click.Context, files: DiscoveryFiles, experiment: DiscoveryExperiment, known_classes: str | None
) -> None:
    """Refuse options that were given and would do nothing, or contradict each other."""
    is_test = experiment.n_known is not None or known_classes is not None
    is_counted = known_classes in (None, RANDOM)
    rules = {
        "labelled_fraction": (is_test, "needs --n-known or --known-classes"),
        "n_known": (is_counted, "is of no use beside the --known-classes themselves"),
        "is_linked": (files.export is not None, "and --copy need --export-folders"),
    }
    refuse_unused(context, rules)


def _check_places(files: DiscoveryFiles) -> None:
    """Check that the results can be written."""
    if check_out(files.out, (ASSIGNMENTS, SUMMARY, REPORT), KIND) and not files.is_overwritten:
        raise ValueError(f"{files.out} holds an earlier result: name another folder, or replace it with --overwrite")
    if files.export is not None:
        check_export(files.export)


def _progress(files: DiscoveryFiles) -> output.Progress:
    return output.Progress("steps", is_quiet=files.is_quiet, remark="; nothing was written")


def _reporter(progress: output.Progress) -> DiscoveryProgress:
    """Return the progress callback of the library's stages."""
    begun: set[str] = set()

    def report(stage: str, n_done: int, words: str) -> None:
        if stage not in begun:
            begun.add(stage)
            progress.start(stage, 1)
        progress.update(n_done, words)

    return report


def _load_pool(files: DiscoveryFiles) -> FeatureSet:
    pool = load_partly_labelled(files.features, files.labels)
    if files.export is not None and image_files(pool) is None:
        raise ValueError(
            f"--export-folders needs to know the images, and {files.features} does not: use a store of fewshot extract"
        )
    return pool


def _with_known(text: str | None, experiment: DiscoveryExperiment, pool: FeatureSet) -> DiscoveryExperiment:
    """Return the experiment with the known classes that the words of ``--known-classes`` name."""
    if text is None or text == RANDOM:
        return experiment
    names = [name for name in pool.class_names if name not in experiment.unlabelled]
    return replace(experiment, known_classes=tuple(names[position] for position in _positions(text, names)))


def _positions(text: str, names: Sequence[str]) -> Sequence[int]:
    if text.endswith(".json"):
        return ssb_known_classes(Path(text).read_text(encoding="utf-8"))
    return class_positions(text, names, option="--known-classes")


def _pictures(result: DiscoveryResult, progress: output.Progress) -> Pictures:
    rows = [row for groups in result.examples for group in groups for row in group]
    progress.start("reading pictures", len(rows))
    return read_pictures(result.data.pool, rows, side=SIDE, progress=progress)


def _write(files: DiscoveryFiles, document: dict[str, Any], report: Report) -> None:
    texts = {
        ASSIGNMENTS: assignments_csv(report.result),
        REPORT: render_report(report, document["command"], document["warnings"]),
        SUMMARY: output.json_text(document) + "\n",
    }
    with filling_folder(files.out) as folder:
        write_texts(folder, texts)


def _export(files: DiscoveryFiles, path: str, result: DiscoveryResult) -> list[str]:
    images = image_files(result.data.pool)
    assert images is not None
    n_missing = export_folders(path, images, result.found.labels, result.found.names, is_linked=files.is_linked)
    missing = counted(n_missing, "image", "images")
    return [f"{missing} could not be put into {path}: were they moved?"] if n_missing else []
